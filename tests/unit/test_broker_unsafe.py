"""A mosquitto that would let in who has no right to be there is not set up, and it is said why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.broker.mosquitto import MosquittoSettings, configuration
from server.broker.unsafe import UnsafeSetting, refuse_unsafe, unsafe

SETTINGS = MosquittoSettings(
    site="demo",
    directory=Path("/etc/mosquitto/demo"),
    plugin=Path("/usr/lib/mosquitto_dynamic_security.so"),
    address="192.0.2.1",
)
GOOD = configuration(SETTINGS)


def without(name: str) -> str:
    """The good configuration less one setting."""
    return re.sub(rf"(?m)^{name} .*\n", "", GOOD)


def told(text: str) -> str:
    return "\n".join(unsafe(text))


def test_what_is_written_is_safe():
    assert not told(GOOD)


def test_every_address_is_fine_with_tls():
    assert not told(GOOD.replace("192.0.2.1", "0.0.0.0"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (without("require_certificate"), "anyone may connect"),
        (GOOD.replace("require_certificate true", "require_certificate false"), "anyone may"),
        (without("use_identity_as_username"), "not those of its certificate"),
        (without("use_username_as_clientid"), "take another's id"),
        (without("tls_version"), "older versions"),
        (GOOD.replace("tlsv1.3", "tlsv1.2"), "older versions"),
        (without("plugin"), "may read and publish everything"),
        (without("cafile"), "plaintext beyond loopback"),
        (without("keyfile"), "plaintext beyond loopback"),
        (GOOD.replace("allow_anonymous false", "allow_anonymous true"), "has no name"),
        (GOOD.replace("per_listener_settings false", "per_listener_settings true"), "no rights"),
        (GOOD + "listener 1883 192.0.2.1\n", "plaintext beyond loopback"),
        (GOOD + "listener 1883\n", "plaintext beyond loopback"),
        (GOOD + "listener 1883 0.0.0.0\n", "plaintext beyond loopback"),
        (GOOD + "port 1883\n", "plaintext beyond loopback"),
        (GOOD + "listener 1883 127.0.0.1\n", "--insecure-loopback"),
        (GOOD + "password_file /etc/pw\n", "without a certificate"),
        (GOOD + "psk_file /etc/psk\n", "without a certificate"),
        (GOOD + "acl_file /etc/acl\n", "does not know of"),
        (GOOD + "plugin /usr/lib/other.so\n", "does not know of"),
        (GOOD + "include_dir /etc/mosquitto/conf.d\n", "not looked at"),
        (GOOD + "connection cloud\n", "another broker"),
        ("", "without TLS"),
        ("allow_anonymous false\n", "without TLS"),
    ],
)
def test_each_unsafe_setting_is_named_with_its_reason(text, why):
    assert why in told(text)


def test_a_plain_listener_on_loopback_has_to_be_asked_for():
    settings = MosquittoSettings(
        site="demo", directory=Path("/x"), plugin=Path(), insecure=True, address="127.0.0.1"
    )
    text = configuration(settings)
    assert not list(unsafe(text, insecure_loopback=True))
    assert "plaintext" in told(text)


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::"])
def test_no_plain_listener_beyond_loopback_is_written_even_if_asked_for(address):
    settings = MosquittoSettings(
        site="demo", directory=Path("/x"), plugin=Path(), insecure=True, address=address
    )
    with pytest.raises(UnsafeSetting, match="plaintext beyond loopback"):
        configuration(settings)


def test_loopback_beside_the_network_does_not_excuse_the_network():
    text = GOOD.replace("require_certificate true\n", "") + "listener 1883 127.0.0.1\n"
    with pytest.raises(UnsafeSetting, match="require_certificate"):
        refuse_unsafe(text, insecure_loopback=True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    for name in ("broker.key", "rights.json"):
        (tmp_path / name).touch(mode=0o600)
    return tmp_path


def test_files_that_their_owner_alone_can_read_are_fine(directory):
    refuse_unsafe(GOOD, files=directory)


@pytest.mark.parametrize("name", ["broker.key", "rights.json"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_or_rights_that_others_can_get_at_are_refused(directory, name, mode):
    (directory / name).chmod(mode)
    with pytest.raises(UnsafeSetting, match=rf"{name} has mode {mode:o}.*chmod 600"):
        refuse_unsafe(GOOD, files=directory)


def test_a_directory_that_others_can_write_into_is_refused(directory):
    directory.chmod(0o777)
    with pytest.raises(UnsafeSetting, match="written by others"):
        refuse_unsafe(GOOD, files=directory)


def test_a_key_that_is_missing_is_named(directory):
    (directory / "broker.key").unlink()
    with pytest.raises(UnsafeSetting, match=r"broker\.key: No such file"):
        refuse_unsafe(GOOD, files=directory)
