"""Records, reported numbers and sources against their shipped JSON Schemas."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from kdbench.errors import UserError
from kdbench.records.reading import printable

SCHEMA_VERSION = 1


@cache
def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of ``kind``: record, reported or source."""
    text = resources.files("kdbench.records").joinpath(f"schema/{kind}.v{SCHEMA_VERSION}.json").read_text("utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


@cache
def _validator(kind: str) -> Any:
    import fastjsonschema  # compiled once, then about a millisecond a record (ADR 7)

    return fastjsonschema.compile(schema(kind), use_default=False)


def check(kind: str, document: object, where: str) -> None:
    """Raise UserError naming ``where``, the field and the rule it breaks, unless ``document`` is a valid ``kind``."""
    import fastjsonschema

    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(f"{where}: schema_version is {version}, of a newer kdbench than this; read it with that one.")
    try:
        _validator(kind)(document)
    except fastjsonschema.JsonSchemaValueException as error:
        path, rule = _broken(error)
        field = printable("/".join(path)) or "the document"
        raise UserError(f"{where}: {field} {printable(rule[:300])}.") from None


def _broken(error: Any) -> tuple[list[str], str]:
    """Where the rule is broken that ``error`` is of, and what it is."""
    path = [str(part) for part in error.path[1:]]
    if error.rule == "required":
        return path, f"lacks {next(name for name in error.rule_definition if name not in error.value)}"
    return path, error.message.removeprefix(error.name).strip()
