"""Reading GPU data files, the workbench's own and the user's."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sim.gpu import Gpu
from sim.gpu_figures import DEFAULTS, FIGURES, ORDERED, TENSOR_RATE, Range, check_range
from tiles.formats import ELEMENTS
from tiles.intake import MAX_YAML_BYTES, nearest, read_bounded, shown

__all__ = ["gpu_names", "load_gpu", "parse_gpu"]

MAX_FILE_BYTES = MAX_YAML_BYTES
MAX_DEPTH = 8
SCHEMA = 1

_FOLDER = Path(__file__).parent / "gpus"
# libyaml reads a GPU file in a millisecond; the pure Python loader stands in where it is missing.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_KEYS = (
    "schema name title vendor capability matches features native_elements figures "
    "tensor_flop_per_clk"
).split()
_VENDORS = ("nvidia", "amd")
#: What the cost model and the legality rules ask for, by vendor.
_FEATURES = {"tma": "nvidia", "wgmma": "nvidia", "tcgen05": "nvidia", "mfma_scale": "amd"}
_TWICE = "the same key twice, "
#: A GPU's name becomes part of the names of files and packages.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class _UniqueKeys(_SafeLoader):  # type: ignore[misc]  # chosen where libyaml is known
    """Plain YAML would let the last of two equal keys win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = _TWICE + shown(key.value)
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def gpu_names() -> list[str]:
    """Names of the GPUs that come with the workbench, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_gpu(name_or_path: str | Path) -> Gpu:
    """Load a GPU by name, or from the path of a file in the same layout as ``sim/gpus/*.yaml``.

    A text that holds a ``/`` or ends in ``.yaml`` or ``.yml`` is a path.

    Raises:
        ValueError: unknown name, unreadable file, or a file that breaks a rule; one line.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        return _read(Path(name_or_path))
    names = gpu_names()
    if text not in names:
        raise ValueError(
            f"unknown gpu {shown(text)}: {nearest(text.lower(), names)}"
            f"choose from {', '.join(names)} or give a .yaml file"
        )
    return _own(text)


@cache
def _own(name: str) -> Gpu:
    return _read(_FOLDER / f"{name}.yaml")


def _read(path: Path) -> Gpu:
    try:
        data = read_bounded(path, MAX_FILE_BYTES)
    except ValueError as error:
        raise ValueError(f"gpu file {error}") from error
    return parse_gpu(data, f"gpu file {path}")


def parse_gpu(data: bytes, where: str) -> Gpu:
    """Check the content of a GPU file and make the record.

    Args:
        data: at most ``MAX_FILE_BYTES`` bytes of YAML in UTF-8.
        where: what messages begin with, e.g. ``gpu file my.yaml``.
    Raises:
        ValueError: the content breaks a rule; one line.
    """
    try:
        text = data.decode("utf-8")
        shallow = _is_shallow(text)
        content = yaml.load(text, Loader=_UniqueKeys) if shallow else None
    # Values such as the date 2026-13-45 fail in the constructor with a plain ValueError.
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or ""
        if problem.startswith(_TWICE):
            raise ValueError(f"{where}: {problem}{line}: remove one") from error
        raise ValueError(f"{where}: not YAML in UTF-8{line}: correct it") from error
    if not shallow:
        raise ValueError(
            f"{where}: aliases or more than {MAX_DEPTH} levels of nesting: write plain values"
        )
    try:
        return _gpu(text, content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _is_shallow(text: str) -> bool:
    """False for what would exhaust the stack: composing a document recurses once a level."""
    depth = 0
    for event in yaml.parse(text, Loader=_UniqueKeys):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            return False
    return True


def _mapping(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise ValueError(f"{key} must be a mapping, got {shown(value)}: write key: value pairs")
    return value


def _check_keys(where: str, given: dict[str, Any], known: list[str]) -> None:
    for key in given:
        if key not in known:
            hint = nearest(key, known) or "remove it"
            raise ValueError(f"unknown key {shown(key)} in {where}: {hint.strip()}")
    for key in known:
        if key not in given:
            raise ValueError(f"{key} is missing in {where}: add it")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{key} must be a text of one line, got {shown(value)}: correct it")
    return value


def _texts(key: str, value: object, known: Iterable[str] | None = None) -> tuple[str, ...]:
    """A list of texts, all of them ``known`` when that is given."""
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list of texts, got {shown(value)}: write [a, b]")
    texts = tuple(_text(key, item) for item in value)
    for text in texts:
        if known is not None and text not in known:
            raise ValueError(
                f"{key}: unknown {shown(text)}: {nearest(text, known)}"
                f"choose from {', '.join(known)}"
            )
    return texts


def _whole(value: object, low: int, high: int) -> bool:
    """Whether it is an integer of that range; 1.0 and true are none."""
    return type(value) is int and low <= value <= high


def _figure(key: str, entry: object, rule: Range) -> tuple[float, str]:
    """Value and source of one figure."""
    figure = _mapping(key, entry)
    _check_keys(key, {"unit": "", **figure}, ["value", "unit", "source"])
    value = figure["value"]
    check_range(key, value, rule)
    whole = rule[2]
    if whole and value != int(value):
        raise ValueError(f"{key} must be a whole number, got {value}: round it")
    source = _text(f"source of {key}", figure["source"])
    return (int(value) if whole else float(value)), source


def _name(value: object) -> str:
    name = _text("name", value)
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"name {shown(name)}: write 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit "
            "first, no '..'"
        )
    return name


def _gpu(text: str, content: object) -> Gpu:
    """Check a parsed file and make the record."""
    top = _mapping("the file", content)
    _check_keys("the file", top, _KEYS)
    if not _whole(top["schema"], SCHEMA, SCHEMA):
        raise ValueError(f"schema must be {SCHEMA}, got {shown(top['schema'])}: correct it")
    if top["vendor"] not in _VENDORS:
        raise ValueError(
            f"vendor must be one of {', '.join(_VENDORS)}, got {shown(top['vendor'])}: choose one"
        )
    if not _whole(top["capability"], 1, 9999):
        raise ValueError(
            f"capability must be a whole number in 1..9999, got {shown(top['capability'])}: "
            "write 90 for 9.0"
        )
    entries = {**DEFAULTS, **_mapping("figures", top["figures"])}
    _check_keys("figures", entries, list(FIGURES))
    figures = {key: _figure(key, entries[key], rule) for key, rule in FIGURES.items()}
    rates = {
        name: _figure(f"tensor_flop_per_clk.{name[:40]}", entry, TENSOR_RATE)
        for name, entry in _mapping("tensor_flop_per_clk", top["tensor_flop_per_clk"]).items()
    }
    native = _texts("native_elements", top["native_elements"], ELEMENTS)
    if odd := sorted(set(native) ^ set(rates)):
        where = ("native_elements", "tensor_flop_per_clk")
        given, lacking = where if odd[0] in native else reversed(where)
        raise ValueError(
            f"{shown(odd[0])} stands in {given} and not in {lacking}, and both must name the same "
            "elements: make them agree"
        )
    if "fp16" not in rates:
        raise ValueError("native_elements must hold fp16, others decode to it: add it")
    values: dict[str, Any] = {key: value for key, (value, _) in figures.items()}
    for smaller, larger in ORDERED:
        if values[smaller] > values[larger]:
            raise ValueError(f"{smaller} must not exceed {larger}: correct one of them")
    features = _texts("features", top["features"], _FEATURES)
    for feature in features:
        if _FEATURES[feature] != top["vendor"]:
            raise ValueError(f"features: {top['vendor']} has no {feature}: remove it")
    sources = {key: source for key, (_, source) in figures.items()}
    sources |= {f"tensor_flop_per_clk.{key}": source for key, (_, source) in rates.items()}
    return Gpu(
        name=_name(top["name"]),
        title=_text("title", top["title"]),
        vendor=top["vendor"],
        capability=top["capability"],
        device_names=_texts("matches", top["matches"]),
        features=frozenset(features),
        native_elements=frozenset(native),
        tensor_flop_per_clk={key: value for key, (value, _) in rates.items()},
        sources=sources,
        text=text,
        **values,
    )
