"""Everything that a mosquitto of one's own needs: configuration, certificate, rights.

Its options: https://mosquitto.org/man/mosquitto-conf-5.html. What makes a configuration unsafe is
told by `server.broker.unsafe`, which also judges what is written here before it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.broker.dynamic_security import rights_document
from server.broker.limits import (
    MOST_CONNECTIONS,
    MOST_IN_FLIGHT,
    MOST_PACKET_BYTES,
    MOST_QUEUED,
    MOST_QUEUED_BYTES,
)
from server.broker.unsafe import refuse_unsafe
from server.files import write_durably
from server.pki import Authority, pem_of
from server.tls import LOCAL

PLUGIN = "mosquitto_dynamic_security.so"
CONFIGURATION = "mosquitto.conf"
_FILES = ("authorities.pem", "broker.pem", "broker.key", "rights.json", "crl.pem")
_LIBRARIES = (Path("/usr/lib"), Path("/usr/local/lib"), Path("/opt/homebrew/lib"))


class NoPlugin(Exception):
    """mosquitto's dynamic-security plugin is not here."""


@dataclass(frozen=True)
class MosquittoSettings:
    """What differs from one site's mosquitto to another's."""

    site: str
    directory: Path
    """Where its files are, as mosquitto itself will see it."""
    plugin: Path
    address: str = "127.0.0.1"
    port: int = 8883
    hosts: Sequence[str] = LOCAL
    """Names and addresses by which it is reached, for its certificate."""
    user: str | None = None
    """Whom mosquitto runs as when it is started by root."""
    crl: bytes | None = None
    """Certificates that count no more. mosquitto reads it at its start and at SIGHUP, and lets
    nobody in when it is older than its own word."""
    insecure: bool = False
    """No TLS, no certificates, no rights: for tests on loopback."""


def find_plugin() -> Path:
    """The plugin as the system's package installs it. Raises NoPlugin."""
    for library in _LIBRARIES:
        for found in (library / PLUGIN, *sorted(library.glob(f"*/{PLUGIN}"))):
            if found.exists():
                return found
    raise NoPlugin(
        f"{PLUGIN} is not on this machine: install mosquitto 2, or say with --plugin where it is "
        "on the machine that mosquitto runs on"
    )


def write_configuration(
    settings: MosquittoSettings,
    authority: Authority | None,
    agents: Iterable[str],
    now: datetime,
    into: Path | None = None,
) -> Path:
    """Write all files, into the settings' directory or where it is to be found from here.

    The certificate's key is a new one each time. Raises UnsafeSetting, ValueError, OSError.
    """
    directory = into or settings.directory
    text = configuration(settings)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = [directory / CONFIGURATION]
    if authority is not None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.for_server(key.public_key(), settings.hosts, now)
        write_durably(directory / "authorities.pem", authority.pem.encode(), mode=0o644)
        write_durably(directory / "broker.pem", pem_of(certificate).encode(), mode=0o644)
        write_durably(directory / "broker.key", pem_of_key(key))
        write_durably(directory / "rights.json", rights_document(settings.site, agents))
        if settings.crl is not None:
            write_durably(directory / "crl.pem", settings.crl, mode=0o644)
        written += [directory / name for name in _FILES if (directory / name).exists()]
    write_durably(directory / CONFIGURATION, text.encode(), mode=0o644)
    if settings.user is not None and os.geteuid() == 0:
        for file in (directory, *written):
            shutil.chown(file, settings.user)
    refuse_unsafe(text, insecure_loopback=settings.insecure, files=directory)
    return directory / CONFIGURATION


def configuration(settings: MosquittoSettings) -> str:
    """The text of mosquitto.conf. Raises UnsafeSetting."""
    at = settings.directory
    lines = [
        f"# mosquitto for the site {settings.site}, written by `ostiary broker config mosquitto`.",
        "# Nothing is kept over a restart but rights: agents and server send again what was lost.",
        "per_listener_settings false",
        f"allow_anonymous {_yes(settings.insecure)}",
        "persistence false",
        "sys_interval 0",
        "connection_messages false",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
        "# else each answer to a command waits 40 ms for a delayed TCP acknowledgement",
        "set_tcp_nodelay true",
        f"max_packet_size {MOST_PACKET_BYTES}",
        f"max_inflight_messages {MOST_IN_FLIGHT}",
        f"max_queued_messages {MOST_QUEUED}",
        f"max_queued_bytes {MOST_QUEUED_BYTES}",
    ]
    if settings.user is not None:
        lines.append(f"user {settings.user}")
    if not settings.insecure:
        lines += [f"plugin {settings.plugin}", f"plugin_opt_config_file {at / 'rights.json'}"]
    lines += [
        "",
        f"listener {settings.port} {settings.address}",
        f"max_connections {MOST_CONNECTIONS}",
    ]
    if not settings.insecure:
        lines += [
            f"cafile {at / 'authorities.pem'}",
            f"certfile {at / 'broker.pem'}",
            f"keyfile {at / 'broker.key'}",
            "tls_version tlsv1.3",
            "require_certificate true",
            "# who a client is, and its client id, is the subject of its certificate",
            "use_identity_as_username true",
            "use_username_as_clientid true",
        ]
        if settings.crl is not None:
            lines.append(f"crlfile {at / 'crl.pem'}")
    text = "\n".join(lines) + "\n"
    refuse_unsafe(text, insecure_loopback=settings.insecure)
    return text


def pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, unencrypted: for a file that only its owner can read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _yes(value: bool) -> str:
    return "true" if value else "false"
