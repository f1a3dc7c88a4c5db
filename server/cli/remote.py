"""Speaking to a running server: what changes something goes through its API, never around it.

On the server's own machine `<site>/run.json` says where it listens and holds an admin token made at
its start: who may read the site directory may do all. Elsewhere use `--url` and `OSTIARY_TOKEN`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.cli.console import fail
from server.ingest.alarms import printable
from server.run_file import RUN_FILE

TOKEN_ENV = "OSTIARY_TOKEN"  # noqa: S105 the name of a variable
TIMEOUT_S = 60.0
SHOWN_ERRORS = 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_OTHER_VERSION = "The server may be of another version than this command: `ostiary --version`."
_ADVICE = {
    "invalid-request": "",  # it is about what was typed, and says what is expected
    "no-such-object": "Names are case-sensitive.",
    "not-now": "",  # its detail says what is in the way
    "refused": "Nothing was changed or done.",
    "changed-meanwhile": "Look at what it is now, and try again.",
    "not-connected": "Nothing was sent. `ostiary doors status` shows which doors are there.",
    "not-ready": "Doors go on deciding meanwhile, and keep their events. See the server's log.",
    "unauthorised": f"Set {TOKEN_ENV} to one that `ostiary tokens create` made. On the server's "
    "machine none is needed.",
    "not-found": _OTHER_VERSION,
    "method-not-allowed": _OTHER_VERSION,
}
"""What to do at a command line, where that is not what the API's own advice is."""

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="OSTIARY_URL",
        help=f"A server elsewhere; its token is taken from {TOKEN_ENV}.",
        show_default=False,
    ),
]


class Running(BaseModel):
    """What `run.json` says of the server that runs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str
    token: str = Field(repr=False)


class Refused(Exception):
    """The server answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.kind = str(problem.get("type", "")).removeprefix("/problems/")
        super().__init__(_in_words(status, problem))


class Remote:
    """A server's API. Each call returns the parsed answer, or raises Refused."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request. Raises Refused."""
        given = {key: value for key, value in (query or {}).items() if value is not None}
        answer = self._client.request(
            method,
            path,
            json=body,
            params=given,
            headers=dict(headers or {}),
        )
        if answer.is_error:
            raise Refused(answer.status_code, _problem(answer))
        return answer

    def get(self, path: str, **query: Any) -> Any:
        """What is there."""
        return self.call("GET", path, query=query).json()

    def post(self, path: str, body: object = None, **query: Any) -> Any:
        """The answer, or None if it has no body."""
        return _body(self.call("POST", path, body=body, query=query))

    def put(self, path: str, body: object) -> Any:
        """The answer, or None if it has no body."""
        return _body(self.call("PUT", path, body=body))

    def patch(self, path: str, body: object) -> Any:
        """The answer, or None if it has no body."""
        return _body(self.call("PATCH", path, body=body))

    def delete(self, path: str) -> Any:
        """The answer, or None if it has no body."""
        return _body(self.call("DELETE", path))

    def items(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, a page at a time."""
        after: str | None = None
        while True:
            page = self.get(path, **query, after=after)
            yield from page["items"]
            after = page["next"]
            if after is None:
                return


@contextmanager
def remote(site_dir: Path, url: str | None = None) -> Iterator[Remote]:
    """The running server; a problem or a server that is not there ends the command clearly.

    Without `url` it is the one that runs on `site_dir`. OSTIARY_TOKEN stands above its own token.
    """
    running = _running(site_dir, url)
    try:
        address = httpx.URL(running.url)
    except httpx.InvalidURL as error:
        fail(f"{running.url!r} is not an address: {error}")
    here = address.host in _LOOPBACK
    if address.scheme != "https" and not (address.scheme == "http" and here):
        fail(f"{address}: use https, or the token could be read on the way")
    headers = {"Authorization": f"Bearer {running.token}"}
    with httpx.Client(
        base_url=address, headers=headers, timeout=TIMEOUT_S, trust_env=not here
    ) as client:
        try:
            yield Remote(client)
        except Refused as refusal:
            fail(str(refusal))
        except httpx.ConnectError:
            fail(
                f"no server answers at {address}: start it with "
                f"`ostiary serve --site-dir {site_dir}`, or see its log if it runs"
            )
        except httpx.HTTPError as error:
            fail(f"{address}: {str(error) or type(error).__name__}; see the server's log")


def _running(site_dir: Path, url: str | None) -> Running:
    token = os.environ.get(TOKEN_ENV)
    if url is not None:
        if not token:
            fail(f"set {TOKEN_ENV} to a token of {url}; `ostiary tokens create` makes one there")
        return Running(url=url, token=token)
    file = site_dir / RUN_FILE
    try:
        found = Running.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        fail(
            f"no server runs on {site_dir}: start it with `ostiary serve --site-dir {site_dir}`, "
            "or name another with --url"
        )
    except OSError as error:
        fail(f"{file}: {error.strerror}; run this as the site's user, or use --url and {TOKEN_ENV}")
    except ValidationError:
        fail(f"{file} is not what a running server writes: restart `ostiary serve`")
    return found if token is None else Running(url=found.url, token=token)


def _body(answer: httpx.Response) -> Any:
    return answer.json() if answer.content else None


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        problem = answer.json()
    except json.JSONDecodeError:
        problem = None
    if isinstance(problem, dict):
        return problem
    return {"title": answer.reason_phrase, "detail": "the answer is not a problem document"}


def _in_words(status: int, problem: Mapping[str, Any]) -> str:
    """The problem for a person; its texts may hold what a device or a file chose."""
    title, detail = problem.get("title", status), problem.get("detail", "")
    given = problem.get("errors")
    errors = [
        f"{entry.get('parameter')}: {entry.get('detail')}"
        for entry in (given if isinstance(given, list) else ())
        if isinstance(entry, dict)
    ]
    if errors == [detail]:
        errors = []
    elif detail in errors:
        detail = "see below"
    lines = [f"{title}: {detail}", *(f"  {error}" for error in errors[:SHOWN_ERRORS])]
    if len(errors) > SHOWN_ERRORS:
        lines.append(f"  and {len(errors) - SHOWN_ERRORS} more")
    if advice := _advice(problem):
        lines.append(advice)
    return "\n".join(printable(line) for line in lines)


def _advice(problem: Mapping[str, Any]) -> str:
    """What to do, at a command line; the server's own words are for who calls its API."""
    kind = str(problem.get("type", "")).removeprefix("/problems/")
    if kind == "unconfirmed":
        until = f", and may be until {problem['expires']}" if problem.get("expires") else ""
        return f"It may have been carried out{until}. Look at the door before you try again."
    return _ADVICE.get(kind, str(problem.get("advice", "")))
