"""What the documentation tells a stranger to type works as it is written."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from pathlib import Path

import pytest

from schemas.chain import EVENTS_TYPE
from schemas.envelope import Signer, seal_envelope
from schemas.suites import SuiteName, suite
from tests.system import require_program

ROOT = Path(__file__).parents[2]
SECURITY = ROOT / "docs" / "security.md"
LINES = '{"person":"alice"}\n{"person":"陈"}'.encode()


def _verify_as_documented(folder: Path) -> subprocess.CompletedProcess[str]:
    for program, package in (("jq", "jq"), ("xxd", "xxd"), ("openssl", "openssl")):
        require_program(program, package)
    [recipe] = re.findall(r"```sh\n(.*?)```", SECURITY.read_text(), re.DOTALL)
    return subprocess.run(
        ["sh", "-eu", "-c", recipe], cwd=folder, text=True, capture_output=True, check=False
    )


def _write_proof(folder: Path, name: SuiteName) -> dict[str, object]:
    key = suite(name).generate(secrets.token_bytes)
    envelope = json.loads(seal_envelope(EVENTS_TYPE, LINES, [Signer.of(key)]))
    (folder / "identity.json").write_text(json.dumps({"public_key": key.public.point.hex()}))
    (folder / "proof.json").write_text(json.dumps({"suite": name, "envelope": envelope}))
    return envelope


@pytest.mark.system
@pytest.mark.parametrize("name", ["gm", "intl"])
def test_a_stranger_can_verify_an_event_with_openssl_alone(tmp_path: Path, name: SuiteName) -> None:
    _write_proof(tmp_path, name)
    verdict = _verify_as_documented(tmp_path)
    assert "Signature Verified Successfully" in verdict.stdout, verdict.stderr
    assert verdict.returncode == 0
    assert (tmp_path / "payload").read_bytes() == LINES


@pytest.mark.system
@pytest.mark.parametrize("name", ["gm", "intl"])
def test_openssl_refuses_an_event_that_was_changed(tmp_path: Path, name: SuiteName) -> None:
    envelope = _write_proof(tmp_path, name)
    payload = str(envelope["payload"])
    envelope["payload"] = payload.replace(payload[:4], "eyJQ", 1)
    (tmp_path / "proof.json").write_text(json.dumps({"suite": name, "envelope": envelope}))
    verdict = _verify_as_documented(tmp_path)
    assert verdict.returncode != 0
    assert "Verified Successfully" not in verdict.stdout


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    paths = re.findall(r"`((?:docs|edge_agent|schemas|server|tests|requirements)/[\w./-]*)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
