"""`run.json`: how commands on this machine find the server that runs, and are let in."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.site import write_durably
from server.store.tokens import SECRET_BYTES, token_hash

RUN_FILE = "run.json"


def new_local_token() -> tuple[str, str]:
    """A fresh admin token and its hash, which `ServerState.local_token` takes."""
    token = secrets.token_hex(SECRET_BYTES)
    return token, token_hash(token)


@contextmanager
def run_file(site_dir: Path, url: str, token: str) -> Iterator[None]:
    """While the context lasts, `run.json` (0600) tells where the server is, and the token.

    One that a killed server left is replaced, and its token is nothing any more.
    """
    file = site_dir / RUN_FILE
    write_durably(file, json.dumps({"url": url, "token": token}).encode())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
