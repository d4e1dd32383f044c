"""The shape of a TuningSchema T4 file, checked with messages that name the place.

Facts of the published schema (github.com/odgaard/TuningSchema, branch T4, results-schema.json and
metadata-schema.json): ``results`` is a list of objects; each needs ``configuration`` (object),
``times`` (object), ``invalidity`` (one of six words) and ``correctness`` (number).  Everything else
is optional, and keys that the schema does not know are allowed everywhere.
"""

import re
from collections.abc import Mapping
from typing import Any

from tiles.intake import shown
from tiles.kernels import Status

__all__ = ["T4_VERSION", "check_t4"]

T4_VERSION = "1.0.0"

_VERSION = re.compile(r"[0-9]+.[0-9]+.[0-9]+")
_INVALIDITY = frozenset(status.value for status in Status)
_REQUIRED = ("configuration", "times", "invalidity", "correctness")
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "list": list,
    "text": str,
    "number": (int, float),
}
_ARTICLES = {"object": "an object", "list": "a list", "text": "a text", "number": "a number"}
_RESULT = {
    "timestamp": "text",
    "configuration": "object",
    "objectives": "list",
    "times": "object",
    "correctness": "number",
    "measurements": "list",
}
_TIMES = {
    "compilation_time": "number",
    "runtimes": "list",
    "framework": "number",
    "search_algorithm": "number",
    "validation": "number",
}
_METADATA = {"zenodo": "object", "hardware": "object", "environment": "object"}


def _is(kind: str, value: object) -> bool:
    return isinstance(value, _KINDS[kind]) and not isinstance(value, bool)


def _check(where: str, data: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    for key, kind in kinds.items():
        if key in data and not _is(kind, data[key]):
            raise ValueError(
                f"{where}{key}: takes {_ARTICLES[kind]}, got {shown(data[key])}: correct it"
            )


def check_t4(data: object) -> dict[str, Any]:
    """The content of a T4 results file, metadata in the same file included.

    A measurement's value may be a number, a text or a list: Kernel Tuner writes all three.

    Raises:
        ValueError: it breaks the schema; one line with key path, rule and value.
    """
    if not isinstance(data, dict):
        raise ValueError(f"takes an object, got {shown(data)}: give a T4 results file")
    if "results" not in data:
        raise ValueError("results: this key is missing: give a T4 results file")
    _check("", data, {"schema_version": "text", "results": "list", "metadata": "object"})
    version = data.get("schema_version")
    if version is not None and not _VERSION.fullmatch(version):
        raise ValueError(f"schema_version: written 1.0.0, got {shown(version)}: correct it")
    _check("metadata.", data.get("metadata", {}), _METADATA)
    for index, result in enumerate(data["results"]):
        _check_result(f"results[{index}]", result)
    return data


def _check_result(where: str, result: object) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"{where}: takes an object, got {shown(result)}: correct it")
    for key in _REQUIRED:
        if key not in result:
            raise ValueError(f"{where}.{key}: this key is missing: add it")
    _check(f"{where}.", result, _RESULT)
    _check(f"{where}.times.", result["times"], _TIMES)
    invalidity = result["invalidity"]
    if not isinstance(invalidity, str) or invalidity not in _INVALIDITY:
        known = ", ".join(sorted(_INVALIDITY))
        raise ValueError(f"{where}.invalidity: one of {known}, got {shown(invalidity)}: correct it")
    for place, entry in enumerate(result.get("measurements", ())):
        at = f"{where}.measurements[{place}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{at}: takes an object, got {shown(entry)}: correct it")
        _check(f"{at}.", entry, {"name": "text", "unit": "text"})
        value = entry.get("value", 0)
        if not any(_is(kind, value) for kind in ("number", "text", "list")):
            raise ValueError(f"{at}.value: takes a number, got {shown(value)}: correct it")
