"""What is unsafe in a mosquitto configuration, and why: ours and what became of it later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

PLUGIN_NAME = "mosquitto_dynamic_security"
_OTHER_WAYS_IN = {
    "acl_file": "gives rights that `ostiary` does not know of and can't take away",
    "auth_plugin": "gives rights that `ostiary` does not know of and can't take away",
    "bridge_protocol_version": "a bridge carries messages to another broker",
    "connection": "a bridge carries messages to another broker",
    "include_dir": "brings in settings that are not looked at here",
    "password_file": "lets in who knows a password, without a certificate",
    "psk_file": "lets in who knows a shared key, without a certificate",
    "psk_hint": "lets in who knows a shared key, without a certificate",
}
_NEEDED = {
    "require_certificate": "without it anyone may connect, with no certificate at all",
    "use_identity_as_username": "without it a client's rights are not those of its certificate",
    "use_username_as_clientid": "without it a client can take another's id and end its session",
}
_FOR_TLS = ("cafile", "certfile", "keyfile")
_OTHERS = 0o077
"""Mode bits of everyone but the owner."""


class UnsafeSetting(Exception):
    """Settings that would let in who has no right to be there; one line each, and why."""


@dataclass
class _Listener:
    line: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        words = self.line.split()
        return words[2] if len(words) > 2 else "every address"

    @property
    def loopback(self) -> bool:
        try:
            return ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"


def refuse_unsafe(text: str, *, insecure_loopback: bool = False, files: Path | None = None) -> None:
    """Raise UnsafeSetting if a configuration is not safe.

    `insecure_loopback` lets a loopback listener be plain. With `files`, the directory they are in,
    the files that it names are looked at too.
    """
    reasons = list(unsafe(text, insecure_loopback=insecure_loopback))
    if files is not None:
        reasons += unsafe_files(text, files)
    if reasons:
        raise UnsafeSetting("unsafe mosquitto configuration:\n  " + "\n  ".join(reasons))


def unsafe(text: str, *, insecure_loopback: bool = False) -> Iterator[str]:
    """Each unsafe setting in the text of a mosquitto.conf, and why."""
    general, listeners = _parsed(text)
    for name, why in _OTHER_WAYS_IN.items():
        if name in general or any(name in listener.options for listener in listeners):
            yield f"{name}: {why}"
    if general.get("per_listener_settings", "false") != "false":
        yield "per_listener_settings true: a listener of its own may have no rights set"
    if not listeners:
        yield "no listener: mosquitto then opens one without TLS"
    plain = [listener for listener in listeners if not _has_tls(listener)]
    for listener in plain:
        if not listener.loopback:
            yield (
                f"`{listener.line}` is plaintext beyond loopback: who is on the way reads every"
                " event, and anyone may connect"
            )
        elif not insecure_loopback:
            yield (
                f"`{listener.line}` is plaintext: every program on this machine may speak for any"
                " agent; --insecure-loopback allows it, for tests"
            )
    if insecure_loopback and all(listener.loopback for listener in listeners):
        return
    if general.get("allow_anonymous", "false") != "false":
        yield "allow_anonymous true: anyone may connect, and has no name that rights could go by"
    for listener in listeners:
        if listener not in plain:
            yield from _unsafe_tls(listener)
    if PLUGIN_NAME not in general.get("plugin", ""):
        yield f"no {PLUGIN_NAME} plugin: whoever is connected may read and publish everything"


def unsafe_files(text: str, directory: Path) -> Iterator[str]:
    """Each file that the configuration names, in `directory`, and the wrong people can get at."""
    general, listeners = _parsed(text)
    secret = [listener.options.get("keyfile") for listener in listeners]
    for named in [*secret, general.get("plugin_opt_config_file")]:
        if named is None:
            continue
        file = directory / Path(named).name
        try:
            mode = file.stat().st_mode
        except OSError as error:
            yield f"{file}: {error.strerror}"
            continue
        if mode & _OTHERS:
            yield (
                f"{file} has mode {mode & 0o777:03o}: others than its owner can get at it;"
                f" correct it with: chmod 600 {file}"
            )
    if directory.stat().st_mode & 0o022:
        yield f"{directory} can be written by others, who can put files of theirs in place of these"


def _unsafe_tls(listener: _Listener) -> Iterator[str]:
    for name, why in _NEEDED.items():
        if listener.options.get(name) != "true":
            yield f"{name} is not true for `{listener.line}`: {why}"
    if listener.options.get("tls_version") != "tlsv1.3":
        yield f"tls_version of `{listener.line}` is not tlsv1.3: older versions are let in"


def _has_tls(listener: _Listener) -> bool:
    return all(name in listener.options for name in _FOR_TLS)


def _parsed(text: str) -> tuple[dict[str, str], list[_Listener]]:
    general: dict[str, str] = {}
    listeners: list[_Listener] = []
    of_a_listener = {*_FOR_TLS, *_NEEDED, "tls_version", "crlfile", "psk_hint"}
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        if name in ("listener", "port"):
            listeners.append(_Listener(line))
        elif name in of_a_listener and listeners:
            listeners[-1].options[name] = value.strip()
        elif name == "plugin" and PLUGIN_NAME not in value:
            general["auth_plugin"] = value.strip()
        else:
            general[name] = value.strip()
    return general, listeners
