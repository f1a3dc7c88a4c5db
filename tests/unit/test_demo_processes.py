import secrets
import socket
from pathlib import Path

import pytest

from edge_agent.demo.processes import free_port, whole_lines


def test_a_line_that_a_process_has_written_only_half_of_is_not_read_yet(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_bytes(b'{"event": "granted"}\n{"event": "link_')
    assert whole_lines(log) == ['{"event": "granted"}']
    log.write_bytes(b'{"event": "granted"}\n{"event": "link_down"}\n')
    assert whole_lines(log) == ['{"event": "granted"}', '{"event": "link_down"}']
    log.write_bytes(b"")
    assert whole_lines(log) == []


def test_a_free_port_is_none_that_a_connection_may_be_given_meanwhile() -> None:
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(50)}
    assert max(ports) < given
    assert len(ports) > 40  # tests that run side by side seldom choose the same


def test_a_port_that_is_listened_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
        other.close()
        choices = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(secrets, "choice", lambda _: next(choices))
        assert free_port() == free
