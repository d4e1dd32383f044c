"""Entries of our own files: strict, and mistakes become one line that says what to do."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from tiles.intake import nearest, shown

__all__ = ["StrictEntry", "complaint"]

_NEXT_STEPS = {
    "missing": "add it",
    "int_type": "write a plain integer",
    "string_type": "write text",
    "bool_type": "write true or false",
    "list_type": "write a list, e.g. [a, b]",
    "literal_error": "choose one of them",
    "string_pattern_mismatch": "write it on one line, without control characters",
    "too_short": "add what is missing",
    "union_tag_not_found": "write shape: [M, N, K], or model: and tokens:, or problem: TEXT",
    "too_long": "split it over several files",
}


class StrictEntry(BaseModel):
    """Base of our own files' entries: strict types, frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data:
            if key not in known:
                # Handed over as values: a brace in a key must not be read as a template.
                raise PydanticCustomError(
                    "unknown_key",
                    "unknown key {key}: {hint}known keys: {known}",
                    {
                        "key": shown(key),
                        "hint": nearest(key, known),
                        "known": ", ".join(known),
                    },
                )
        return data


def complaint(path: Path, error: ValidationError, tags: frozenset[str] = frozenset()) -> str:
    """The first of pydantic's errors as one line: file, key path, rule, value, next step.

    Args:
        path: the file that was read.
        error: what pydantic found.
        tags: names of union members; pydantic puts them into key paths, where nobody wrote them.
    """
    first = error.errors(include_url=False)[0]
    where = ""
    for part in first["loc"]:
        if isinstance(part, int):
            where += f"[{part}]"
        elif part not in tags:
            where += f".{part}" if where else part
    kind, message = first["type"], first["msg"]
    place = f"{path}: {where}" if where else f"{path}"
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    if kind == "missing":
        return f"{place}: this key is missing: {_NEXT_STEPS[kind]}{tail}"
    if kind == "union_tag_not_found":  # pydantic names the function that tells entries apart
        given = shown(first["input"])
        return f"{place}: does not say what it is of, got {given}: {_NEXT_STEPS[kind]}{tail}"
    if kind == "unknown_key":
        return f"{place}: {message}{tail}"
    # A ValueError of our own validators already says rule, value and next step.
    if kind == "value_error":
        return f"{place}: {first['ctx']['error']}{tail}"
    if kind == "model_type":  # pydantic names the Python class, which means nothing to a reader
        return f"{place}: takes {{key: value}} pairs, got {shown(first['input'])}: correct it{tail}"
    rule = message[0].lower() + message[1:]
    step = _NEXT_STEPS.get(kind, "correct it")
    return f"{place}: {rule}, got {shown(first['input'])}: {step}{tail}"
