"""A site document as YAML, which comes from anyone's editor: hostile until it is read.

Plain scalars are `null`, `true`, `false` or text; what is a number, a date or a time is for the
server's models to say. So `no`, `08:00` and the card `0102030405060708` mean what they look like,
which in YAML 1.1 they do not. Aliases, tags and duplicate keys are refused, and so is a large file.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_BYTES = 64 * 1024 * 1024
"""As large a document as the server takes."""
MAX_DEPTH = 20
_PLAIN: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Dumper(yaml.SafeDumper):
    """Quotes whatever begins like a number: readers differ on what is one."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "'" if text[:1] in "+-.0123456789" and "\n" not in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


class BadYaml(Exception):
    """What is wrong and, where it is known, in which line."""


def read_yaml(data: bytes) -> Any:
    """The value of one YAML document. Raises BadYaml."""
    if len(data) > MAX_BYTES:
        raise BadYaml(f"it is larger than {MAX_BYTES} bytes")
    reader = _Reader()
    try:
        for event in yaml.parse(data, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadYaml(f"{where}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = data[: error.position].count(b"\n") + 1
        raise BadYaml(f"line {line}: {error.reason.partition(':')[0]}") from None
    except yaml.YAMLError as error:
        raise BadYaml(" ".join(str(error).split())) from None
    return reader.value


def write_yaml(value: Any) -> str:
    """YAML that `read_yaml`, and any other reader, takes for the same value."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )
    return text


class _Reader:
    """Builds the value from the parser's events: no more depth, and no sharing, than is meant."""

    def __init__(self) -> None:
        self.value: Any = None
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        """The next event. Raises BadYaml."""
        line = f"line {event.start_mark.line + 1}"
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise BadYaml(f"{line}: a second document begins; put one into each file")
            case yaml.AliasEvent():
                raise BadYaml(f"{line}: aliases (*{event.anchor}) are not taken; write it out")
            case yaml.ScalarEvent():
                self._untagged(event, line)
                self._scalar(event, line)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._untagged(event, line)
                made: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                self._add(made, line)
                self._open.append(made)
                self._keys.append(None)
                if len(self._open) > MAX_DEPTH:
                    raise BadYaml(f"{line}: nested more than {MAX_DEPTH} deep")
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._open.pop()
                self._keys.pop()

    def _untagged(self, event: Any, line: str) -> None:
        if event.tag not in (None, "!"):
            raise BadYaml(f"{line}: tags ({event.tag[:60]}) are not taken")

    def _scalar(self, event: Any, line: str) -> None:
        text: str = event.value
        if self._open and isinstance(self._open[-1], dict) and self._keys[-1] is None:
            if text in self._open[-1]:
                raise BadYaml(f"{line}: {text[:60]!r} is there twice")
            self._keys[-1] = text
            return
        plain = event.implicit[0]
        self._add(_PLAIN.get(text, text) if plain else text, line)

    def _add(self, value: Any, line: str) -> None:
        if not self._open:
            self.value = value
            return
        inside = self._open[-1]
        if isinstance(inside, list):
            inside.append(value)
            return
        key = self._keys[-1]
        if key is None:
            raise BadYaml(f"{line}: a key must be a name, not a list or a mapping")
        inside[key] = value
        self._keys[-1] = None
