"""The server goes over a network to its broker with TLS or not at all."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from server.config import ServerConfig, broker_address, own_broker_host


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtts://broker.example:8884", (True, "broker.example", 8884)),
        ("mqtts://192.0.2.1", (True, "192.0.2.1", 8883)),
        ("mqtts://[2001:db8::1]:8883", (True, "2001:db8::1", 8883)),
        ("mqtt://127.0.0.1:1884", (False, "127.0.0.1", 1884)),
        ("mqtt://[::1]", (False, "::1", 1883)),
        ("mqtt://localhost", (False, "localhost", 1883)),
    ],
)
def test_a_url_names_tls_host_and_port(url, address):
    assert broker_address(url) == address


@pytest.mark.parametrize("url", ["mqtt://192.0.2.1", "mqtt://0.0.0.0:1883", "mqtt://broker"])
def test_plaintext_beyond_loopback_is_refused(url):
    with pytest.raises(ValidationError, match="without TLS"):
        ServerConfig(broker=url)


@pytest.mark.parametrize(
    "url", ["broker", "http://x", "mqtts://", "mqtts://user@host", "mqtts://h/x", "mqtts://h:x"]
)
def test_what_is_no_broker_url_is_refused(url):
    with pytest.raises(ValidationError):
        ServerConfig(broker=url)


def test_the_builtin_broker_listens_on_an_address():
    assert ServerConfig(broker_listen="::1").broker_listen == "::1"
    with pytest.raises(ValidationError):
        ServerConfig(broker_listen="eth0")


@pytest.mark.parametrize(
    ("listens", "address", "host"),
    [
        ("127.0.0.1", "127.0.0.1", "localhost"),
        ("0.0.0.0", "doors.example", "localhost"),
        ("192.0.2.1", "doors.example", "doors.example"),
        ("2001:db8::1", "2001:db8::1", "[2001:db8::1]"),
    ],
)
def test_the_server_finds_its_own_broker_by_a_name_in_its_certificate(listens, address, host):
    assert own_broker_host(ServerConfig(broker_listen=listens, address=address)) == host
