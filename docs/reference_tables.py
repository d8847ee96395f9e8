"""Tables of keys for docs/generate_reference.py: what a pydantic model accepts, in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel


class Undocumented(Exception):
    """Something of the code has no description, or a description has nothing that it describes."""


def keys_table(model: type[BaseModel], texts: Mapping[str, str], what: str) -> str:
    """Every key that `model` accepts. Raises Undocumented unless `texts` has exactly these."""
    schema = model.model_json_schema()
    found = list(_walk_schema("", schema, schema.get("$defs", {})))
    found = [one for one in found if one[0] != "home"]  # given by --home, no key of the file
    same_names(what, [name for name, _, _ in found], texts)
    rows = [(f"`{name}`", kind, default, texts[name]) for name, kind, default in found]
    return table(("key", "value", "default", "meaning"), rows)


def _walk_schema(
    prefix: str, schema: Mapping[str, Any], defs: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Dotted key, kind of value and default of every key below `schema`, in the code's order."""
    for name, field in schema["properties"].items():
        key = prefix + name
        section = next((one for one in _options(field, defs) if "properties" in one), None)
        if section is None or len(_options(field, defs)) > 1:
            required = name in schema.get("required", ())
            yield key, _kind(field, defs), _default(field, required)
        if section is not None:
            yield from _walk_schema(f"{key}.", section, defs)
        for option in _options(field, defs):
            for item in _options(option.get("items", {}), defs):
                if "properties" in item:
                    yield from _walk_schema(f"{key}[].", item, defs)


def _options(field: Mapping[str, Any], defs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    options = field.get("anyOf", [field])
    return [defs[one["$ref"].rsplit("/", 1)[1]] if "$ref" in one else one for one in options]


def _kind(field: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    kinds = [_one_kind(one, defs) for one in _options(field, defs) if one.get("type") != "null"]
    return " or ".join(dict.fromkeys(kinds))


def _one_kind(field: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "properties" in field:
        return "table"
    kind = str(field.get("type", ""))
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])} numbers"
        return f"list of: {_kind(field['items'], defs)}"
    if kind == "object":
        values = field.get("additionalProperties") or next(
            iter(field["patternProperties"].values())
        )
        return f"table of name = {_kind(values, defs)}"
    words = {"string": "text", "boolean": "true or false", "number": "number", "integer": "integer"}
    text = "date" if field.get("format") == "date" else words[kind]
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    if low is not None or high is not None:
        text += " " + bounds(low, high, "exclusiveMinimum" in field, "exclusiveMaximum" in field)
    if "pattern" in field:
        text += f" matching `{field['pattern']}`"
    return text


def bounds(low: Any, high: Any, open_low: bool = False, open_high: bool = False) -> str:
    """Words for a range, each end closed unless said otherwise."""
    parts = []
    if low is not None:
        parts.append(f"{'>' if open_low else '≥'} {_number(low)}")
    if high is not None:
        parts.append(f"{'<' if open_high else '≤'} {_number(high)}")
    return ", ".join(parts)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _default(field: Mapping[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        shown = [round(one, 3) if isinstance(one, float) else one for one in value]
        return f"`{json.dumps(shown)}`"
    return "" if value in (None, "") else f"`{value}`"


def same_names(what: str, names: Sequence[str], texts: Mapping[str, str]) -> None:
    """Raise Undocumented unless `texts` describes exactly `names`."""
    missing, left_over = set(names) - set(texts), set(texts) - set(names)
    if missing or left_over:
        raise Undocumented(
            f"reference-texts.toml, {what}: no text for {sorted(missing)}; no such key: "
            f"{sorted(left_over)}"
        )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    # A bare | would end the cell.
    cells = [
        [re.sub(r"(?<!\\)\|", r"\\|", " ".join(cell.split())) for cell in one] for one in lines
    ]
    return "".join(f"| {' | '.join(one)} |\n" for one in cells)
