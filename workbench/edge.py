"""Text from outside: read up to a limit; mistakes become one line that says what to do."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["StrictEntry", "complaint", "nearest", "read_bounded", "shown"]

_NEXT_STEPS = {
    "missing": "add it",
    "int_type": "write a plain integer",
    "string_type": "write text",
    "bool_type": "write true or false",
    "list_type": "write a list, e.g. [a, b]",
    "literal_error": "choose one of them",
    "string_pattern_mismatch": "write it on one line, without control characters",
    "too_short": "add what is missing",
    "too_long": "split it over several files",
}


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most ``limit_bytes`` bytes.

    Raises:
        ValueError: no such file, not a regular file, not readable, or too large.
    """
    try:
        # Before it is opened: opening a pipe would wait for a writer.
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: not a regular file: give the path of a file")
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}): check the path") from error
    if len(data) > limit_bytes:
        raise ValueError(
            f"{path}: takes at most {limit_bytes} bytes, this file is larger: "
            "check that it is the file you meant"
        )
    return data


def shown(value: object, width: int = 60) -> str:
    """A value on one line, cut at ``width`` characters."""
    # Only a prefix of a long container or string is formatted: its repr may be huge.
    if isinstance(value, str | list | tuple):
        value = value[: width + 1]
    elif isinstance(value, dict):
        value = dict(list(value.items())[:8])
    elif isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def nearest(name: object, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` when a known name is close, else the empty string."""
    close = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


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
