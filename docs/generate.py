"""Write the generated parts of the documentation: `python docs/generate.py`.

docs/schemas/*.json and the marked part of docs/events.md come from the models in `schemas`; a test
fails while they are out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from schemas.events import EVENT_DATA, EventLine, event_type, json_schemas
from schemas.reasons import FIELD_NAMES

HERE = Path(__file__).parent
SCHEMAS = HERE / "schemas"
EVENTS_PAGE = HERE / "events.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def pages() -> dict[Path, str]:
    """Each generated file and what it should hold."""
    files = {
        SCHEMAS / f"{type_}.json": _json({"$schema": DIALECT, **schema})
        for type_, schema in json_schemas().items()
    }
    files[SCHEMAS / "event-line.json"] = _json(
        {"$schema": DIALECT, **EventLine.model_json_schema()}
    )
    before, _, rest = EVENTS_PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    files[EVENTS_PAGE] = f"{before}{BEGIN}\n\n{_types()}\n{_reasons()}\n{END}{after}"
    return files


def current(path: Path) -> str | None:
    """What the file holds now."""
    return path.read_text() if path.exists() else None


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _types() -> str:
    lines = ["## Types", ""]
    schemas = json_schemas()
    for name, model in EVENT_DATA.items():
        type_ = event_type(name)
        meaning = (model.__doc__ or "").replace("`", "").split("\n\n")[0]
        lines += [
            f"### `{name}`",
            "",
            f"`{type_}` ([schema](schemas/{type_}.json)). {meaning}",
            "",
            "| Field | Value | |",
            "|---|---|---|",
            *_fields(schemas[type_]),
            "",
        ]
    return "\n".join(lines)


def _fields(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        note = field.get("description", "")
        if name not in required:
            note = f"{note}; optional" if note else "optional"
        rows.append(f"| `{name}` | {_value(field, schema.get('$defs', {}))} | {note} |")
    return rows


def _value(field: dict[str, Any], definitions: dict[str, Any]) -> str:  # noqa: PLR0911 one a kind
    """What may stand in a field, in words short enough for a table."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        if name == "Reason":
            return "a [reason](#denial-reasons)"
        return _value(definitions[name], definitions)
    if "anyOf" in field:
        return " or ".join(_value(option, definitions) for option in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("format") == "date-time":
        return "time"
    if field["type"] == "object":
        inner = field.get("properties")
        return f"object of {', '.join(f'`{name}`' for name in inner)}" if inner else "object"
    return str(field["type"])


def _reasons() -> str:
    rows = [
        f"| `{reason.value}` | {names.onvif} | {names.bacnet} |"
        for reason, names in FIELD_NAMES.items()
    ]
    head = ["## Denial reasons", "", "| `reason` | ONVIF Denied reason | BACnet access event |"]
    return "\n".join([*head, "|---|---|---|", *rows, ""])


def main() -> None:
    """Write what is out of date; remove schemas of types that are gone."""
    SCHEMAS.mkdir(exist_ok=True)
    wanted = pages()
    for gone in set(SCHEMAS.glob("*.json")) - set(wanted):
        gone.unlink()
    for path, text in wanted.items():
        if current(path) != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path.relative_to(HERE.parent)}\n")


if __name__ == "__main__":
    main()
