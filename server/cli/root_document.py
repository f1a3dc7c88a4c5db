"""`ostiary root`: who may sign what, and how that changes."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from cryptography import x509
from rich.table import Table

from schemas.enrolment import fingerprint
from schemas.root import ROLE_PURPOSES, RoleName, Root, claim_hash
from schemas.suites import suite
from server.cli.console import DEFAULT_SITE_DIR, SiteDir, confirm, err, fail, out, the_site
from server.clock import SystemClock
from server.files import write_durably
from server.kek import KEK_ENV, SiteError, kek_of_passphrase
from server.root_keys import folders_of, read_root_keys
from server.rotation import Proposal, accept, propose
from server.site import RootKeys

app = typer.Typer(help="Who may sign what: the root document.", no_args_is_help=True)

AskKek = Annotated[
    bool, typer.Option("--ask-kek", help="The site's keys are sealed by a passphrase: ask for it.")
]
Keys = Annotated[
    list[Path] | None,
    typer.Option("--root-keys", help="Where root keys are; may be given several times."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def environ_with_kek(site_dir: Path, ask: bool) -> Mapping[str, str]:
    """The environment; with `ask`, the key-encryption key that a passphrase comes to is in it."""
    if not ask:
        return os.environ
    try:
        kek = kek_of_passphrase(site_dir, typer.prompt("Passphrase of the site", hide_input=True))
    except SiteError as error:
        fail(str(error))
    return {**os.environ, KEK_ENV: kek.hex()}


def new_passphrases(place: Path, count: int, ask: bool) -> tuple[str, ...]:
    """A new passphrase for each of `count` root keys, or none."""
    if not ask:
        return ()
    return tuple(
        typer.prompt(
            f"New passphrase for {folder}", hide_input=True, confirmation_prompt="Once more"
        )
        for folder in folders_of(place, count)
    )


def take_offline(place: Path, count: int, *, passphrases: bool) -> str:
    """What to do with new root keys, in plain words."""
    verb, they = ("key is", "It is") if count == 1 else ("keys are", "They are")
    apart = "" if count == 1 else " Give each to another person."
    sealed = (
        "Each is sealed by its passphrase."
        if passphrases
        else "Who has a folder has its key: it is sealed by nothing but the `kek` file in it."
    )
    return (
        f"The root {verb} in {place}/. {they} not needed to run the server, only to change who\n"
        f"may sign. Move the folder now to a medium that is kept offline, with a copy elsewhere,\n"
        f"and remove it here.{apart} {sealed}"
    )


@app.command()
def show(
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the root document: version, keys of each role, TLS authorities."""
    site, _ = the_site(site_dir)
    if as_json:
        found = {
            **site.root.model_dump(mode="json", exclude={"keys"}),
            "hash": claim_hash(site.root_envelope),
        }
        typer.echo(json.dumps(found))
        return
    _print(site.root)
    out.print(f"hash that claim codes carry: {claim_hash(site.root_envelope)}")


@app.command()
def rotate(
    *,
    role: Annotated[
        list[str], typer.Option("--role", help="Whose keys; may be given several times.")
    ],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    root_keys: Keys = None,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Write a proposal to be signed elsewhere; nothing changes yet."),
    ] = None,
    new_root_keys: Annotated[
        Path | None, typer.Option(help="With --role root: where the new root keys go.")
    ] = None,
    root_count: Annotated[int | None, typer.Option(min=1, max=8, help="New root keys.")] = None,
    root_threshold: Annotated[
        int | None, typer.Option(min=1, max=8, help="How many of them must sign.")
    ] = None,
    ask_root_passphrase: Annotated[
        bool, typer.Option(help="Seal each new root key by a passphrase.")
    ] = False,
    ask_kek: AskKek = False,
) -> None:
    """Give roles new keys: the next version of the root document.

    It must be signed by enough root keys of now, and of then if they change. A running server
    publishes it by itself; agents take it up and believe the old keys no more.
    """
    site, _ = the_site(site_dir)
    roles = _roles(role)
    if not root_keys and out_file is None:
        fail("name the folders with the root keys by --root-keys, or a file by --out to sign later")
    environ = environ_with_kek(site_dir, ask_kek)
    new: RootKeys | None = None
    if "root" in roles and new_root_keys is not None:
        held = site.root.roles["root"]
        count = root_count or len(held.keyids)
        threshold = root_threshold or min(held.threshold, count)
        secret = new_passphrases(new_root_keys, count, ask_root_passphrase)
        new = RootKeys(new_root_keys, count, threshold, secret)
    try:
        signers = read_root_keys(root_keys or (), site.name, site.suite, ask_passphrase)
        proposal = propose(
            site,
            roles,
            environ,
            random=secrets.token_bytes,
            now=SystemClock().now(),
            new_root=new,
        ).signed_by(signers)
        if new is not None:
            told = take_offline(new.place, new.count, passphrases=bool(new.passphrases))
            err.print(told, markup=False)
        if out_file is not None:
            write_durably(out_file, proposal.envelope, mode=0o644)
            err.print(
                f"Root {proposal.root.version} is proposed in {out_file}. Have it signed, with\n"
                f"  ostiary root sign {out_file} --root-keys DIR\n"
                f"and then, here:\n  ostiary root accept {out_file} --site-dir {site_dir}",
                markup=False,
            )
            return
        changed = accept(site, proposal, environ)
    except (SiteError, ValueError, OSError) as error:
        fail(str(error))
    _accepted(changed.root)


@app.command()
def sign(
    proposal_file: Annotated[Path, typer.Argument(help="What `ostiary root rotate --out` wrote.")],
    root_keys: Keys = None,
    current: Annotated[
        Path | None, typer.Option(help="The root.json of now, to see what would change.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Add signatures to a proposal; needs no site directory and no network.

    Look at what you sign: whoever holds the keys in it will speak for the site.
    """
    if not root_keys:
        fail("name the folders with the root keys by --root-keys")
    try:
        proposal = Proposal.parse(proposal_file.read_bytes())
        root = proposal.root
        _print(root, Proposal.parse(current.read_bytes()).root if current else None)
        if not yes:
            confirm("Sign this root document?")
        signers = read_root_keys(root_keys, root.site, suite(root.suite), ask_passphrase)
        signed = proposal.signed_by(signers)
        write_durably(proposal_file, signed.envelope, mode=0o644)
    except (SiteError, OSError) as error:
        fail(str(error))
    out.print(f"{proposal_file} has {len(signed.signatures)} signature(s) now.")


@app.command("accept")
def accept_command(
    proposal_file: Annotated[Path, typer.Argument(help="A proposal with enough signatures.")],
    site_dir: SiteDir = DEFAULT_SITE_DIR,
    ask_kek: AskKek = False,
) -> None:
    """Make a proposal that was signed the site's root document."""
    site, _ = the_site(site_dir)
    environ = environ_with_kek(site_dir, ask_kek)
    try:
        changed = accept(site, Proposal.parse(proposal_file.read_bytes()), environ)
    except (SiteError, OSError) as error:
        fail(str(error))
    _accepted(changed.root)


def ask_passphrase(folder: Path) -> str:
    """For a folder whose root key is sealed by one."""
    return str(typer.prompt(f"Passphrase of {folder}", hide_input=True))


def _accepted(root: Root) -> None:
    out.print(f"Root document [bold]{root.version}[/] is in force.")
    err.print("A running server publishes it now. Claim codes made before it are void.")


def _roles(names: list[str]) -> list[RoleName]:
    unknown = [name for name in names if name not in ROLE_PURPOSES]
    if unknown:
        fail(f"--role {unknown[0]}: there are {', '.join(ROLE_PURPOSES)}")
    return cast("list[RoleName]", names)


def _print(root: Root, before: Root | None = None) -> None:
    out.print(
        f"site [bold]{root.site}[/]   suite {root.suite}   root document {root.version}"
        f"   of {root.issued:%Y-%m-%d %H:%M:%S} UTC"
    )
    table = Table("role", "threshold", "keys", "", box=None)
    for name, role in root.roles.items():
        same = before is None or before.roles[name] == role
        prints = "\n".join(fingerprint(each) for each in role.keyids)
        table.add_row(name, str(role.threshold), prints, "" if same else "[bold]new[/]")
    out.print(table)
    for pem in root.authorities:
        out.print(_authority(pem), markup=False)
    if before is not None and before.authorities != root.authorities:
        out.print("[bold]The TLS authorities are others than before.[/]")


def _authority(pem: str) -> str:
    certificate: Any = x509.load_pem_x509_certificate(pem.encode())
    return (
        f"TLS authority {certificate.subject.rfc4514_string()}"
        f" until {certificate.not_valid_after_utc:%Y-%m-%d}"
    )
