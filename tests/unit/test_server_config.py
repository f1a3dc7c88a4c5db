"""The server's settings file, as it is made for a new site."""

from __future__ import annotations

import tomllib

from server.config import ServerConfig, default_toml


def test_every_line_that_is_commented_out_is_toml_and_the_default():
    lines = [line[1:] for line in default_toml().splitlines() if line[:2] not in ("# ", "#", "")]
    shown = tomllib.loads("\n".join(lines))
    fields = ServerConfig.model_fields
    assert shown == {n: f.default for n, f in fields.items() if f.default is not None}
    for name in fields:
        assert name in default_toml()
