from pathlib import Path

from edge_agent.demo.processes import whole_lines


def test_a_line_that_a_process_has_written_only_half_of_is_not_read_yet(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_bytes(b'{"event": "granted"}\n{"event": "link_')
    assert whole_lines(log) == ['{"event": "granted"}']
    log.write_bytes(b'{"event": "granted"}\n{"event": "link_down"}\n')
    assert whole_lines(log) == ['{"event": "granted"}', '{"event": "link_down"}']
    log.write_bytes(b"")
    assert whole_lines(log) == []
