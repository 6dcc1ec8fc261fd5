"""Check JSON schemas of response formats before an engine gets them, and answers after it.

llama.cpp answers freely, without a word, where it cannot hold to a schema, and some bounds keep it
busy for ever. So a schema is taken if it holds nothing but what the engine was seen to obey, other
keywords are refused by name, and an answer that does not hold to its schema is no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

OBJECT = {"type": "object"}  # of the response format "json_object"
LARGEST_BOUND = 1000
MOST_PARTS = 1000
_SCHEMAS = {"items", "additionalProperties"}
_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED = {"properties", "$defs", "definitions"}
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
_PLAIN = {
    *("type", "enum", "const", "required", "$ref", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("title", "description", "default", "examples", "$schema", "$comment", "deprecated"),
}
_FORMATS = {"date-time", "date", "time", "uuid", "ipv4", "email"}


def check(schema: dict[str, Any]) -> None:
    """Raise ValueError, with a sentence, for a schema that an engine might not hold to."""
    import jsonschema

    if sum(len(level) for level in levels(schema)) > MOST_PARTS:
        raise ValueError(f"The schema has more than {MOST_PARTS:,} parts. Send a smaller one.")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"The schema is none ({error.message[:200]}). Mend it.") from None
    todo = [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            _check_part(part, schema)
            todo += [part[key] for key in _SCHEMAS & set(part)]
            todo += [inner for key in _LISTS & set(part) for inner in part[key]]
            todo += [inner for key in _NAMED & set(part) for inner in part[key].values()]


def levels(thing: Any) -> Iterator[list[Any]]:
    """Yield the values of JSON level by level, without recursion."""
    level = [thing]
    while level:
        yield level
        owners = [part for part in level if isinstance(part, (dict, list))]
        level = [
            inner
            for part in owners
            for inner in (part.values() if isinstance(part, dict) else part)
        ]


def _check_part(part: dict[str, Any], schema: dict[str, Any]) -> None:
    unknown = set(part) - _SCHEMAS - _LISTS - _NAMED - _COUNTS - _PLAIN
    if unknown:
        names = ", ".join(map(repr, sorted(unknown)))
        raise ValueError(f"No engine here is known to obey {names} of a schema. Leave it out.")
    for key in _COUNTS & set(part):
        if part[key] > LARGEST_BOUND:
            raise ValueError(f"{key!r} of the schema is above {LARGEST_BOUND:,}. Lower it.")
    if part.get("format", "date") not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise ValueError(f"The format {part['format']!r} is not known. Use one of: {known}.")
    if "$ref" in part and not _resolves(part["$ref"], schema):
        raise ValueError(f"{part['$ref']!r} is nowhere in the schema. Use '#/$defs/…'.")


def _resolves(place: str, schema: Any) -> bool:
    """Tell whether a reference leads to a part of the schema itself."""
    start, *path = place.split("/")
    for name in path:
        name = name.replace("~1", "/").replace("~0", "~")
        if not isinstance(schema, dict) or name not in schema:
            return False
        schema = schema[name]
    return start == "#" and isinstance(schema, (dict, bool))


def holds(text: str, schema: dict[str, Any]) -> bool:
    """Tell whether an answer is JSON that holds to a schema of `check`."""
    import jsonschema

    try:
        return jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    except (ValueError, RecursionError):
        return False
