"""The agent's own signing key: made on the device at first use, sealed, never leaving it."""

from __future__ import annotations

import json
from pathlib import Path

from edge_agent.files import write_private
from schemas.envelope import Signer
from schemas.errors import BadSignature
from schemas.sealed import seal_secret, unseal_secret
from schemas.suites import RandomBytes, Suite

FILE = "identity.sealed"


def open_identity(
    state_dir: Path, agent: str, kek: bytes, suite: Suite, random: RandomBytes
) -> Signer:
    """The agent's signer, from a new key if there is none yet.

    Raises BadSignature if the sealed key was changed or is of another agent, suite or sealing key,
    and OSError.
    """
    path = state_dir / FILE
    context = f"identity of {agent} in {suite.name}"
    if not path.exists():
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = suite.generate(random)
        write_private(path, seal_secret(kek, key.scalar, context, random))
        return Signer.of(key)
    try:
        return Signer.of(suite.private_key(unseal_secret(kek, path.read_bytes(), context)))
    except BadSignature as error:
        raise BadSignature(
            f"{path}: {error}; put back the sealing key, root.json and state_dir that belong"
            " together, or begin anew with an empty state_dir and another agent name"
        ) from None


def identity_json(agent: str, signer: Signer) -> str:
    """What the server is told of the agent: nothing secret."""
    key = signer.key.public
    return json.dumps(
        {
            "agent": agent,
            "suite": key.suite.name,
            "public_key": key.point.hex(),
            "keyid": signer.keyid,
        }
    )
