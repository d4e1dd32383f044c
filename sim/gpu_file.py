"""Reading GPU data files, the workbench's own and the user's."""

import difflib
import math
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sim.gpu import Gpu
from tiles.formats import ELEMENTS

__all__ = ["gpu_names", "load_gpu"]

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 8
SCHEMA = 1

_FOLDER = Path(__file__).parent / "gpus"
# libyaml reads a GPU file in a millisecond; the pure Python loader stands in where it is missing.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Figure to (lowest, highest, whole number): wide enough for any accelerator of this decade.
_FIGURES: dict[str, tuple[float, float, bool]] = {
    "sm_count": (1, 4096, True),
    "max_clock_mhz": (100, 10_000, False),
    "datasheet_clock_mhz": (100, 10_000, False),
    "sustained_clock_mhz": (100, 10_000, False),
    "tdp_w": (1, 20_000, False),
    "tensor_share": (0.01, 1, False),
    "mma_sync_share": (0.01, 1, False),
    "smem_bytes_per_sm": (1024, 2**24, True),
    "smem_bytes_per_cta": (1024, 2**24, True),
    "smem_bytes_per_clk": (1, 65_536, False),
    "registers_per_sm": (1024, 2**24, True),
    "registers_per_thread": (16, 4096, True),
    "threads_per_sm": (32, 65_536, True),
    "ctas_per_sm": (1, 1024, True),
    "warp_threads": (1, 128, True),
    "l2_bytes": (2**16, 2**36, True),
    "l2_driver_bytes": (2**16, 2**36, True),
    "l2_read_gb_per_s": (1, 10**6, False),
    "l2_bytes_per_clk_per_sm": (1, 65_536, False),
    "dram_gb_per_s": (1, 10**6, False),
    "dram_read_gb_per_s": (1, 10**6, False),
    "dram_copy_gb_per_s": (1, 10**6, False),
    "smem_latency_ns": (0, 10_000, False),
    "l2_latency_ns": (1, 100_000, False),
    "dram_latency_ns": (1, 100_000, False),
    "tma_extra_latency_ns": (0, 100_000, False),
    "stream_launch_us": (0, 10_000, False),
    "graph_launch_us": (0, 10_000, False),
    "fma_per_clk": (1, 65_536, False),
    "int_per_clk": (1, 65_536, False),
    "convert_per_clk": (1, 65_536, False),
}
_TENSOR_RATE = (1, 10**7, False)
_KEYS = (
    "schema name title vendor capability matches features native_elements figures "
    "tensor_flop_per_clk"
).split()
_VENDORS = ("nvidia", "amd")


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
        near = difflib.get_close_matches(text.lower(), names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown gpu {text!r}: {hint}choose from {', '.join(names)} or give a .yaml file"
        )
    return _own(text)


@cache
def _own(name: str) -> Gpu:
    return _read(_FOLDER / f"{name}.yaml")


def _read(path: Path) -> Gpu:
    """Read and check one file."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"gpu file {path}: {error.strerror or 'cannot be read'}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"gpu file {path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        shallow = _is_shallow(data)
        content = yaml.load(data, Loader=_LOADER) if shallow else None
    # Values such as the date 2026-13-45 fail in the constructor with a plain ValueError.
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"gpu file {path}: not YAML{where}") from error
    if not shallow:
        raise ValueError(f"gpu file {path}: aliases or more than {MAX_DEPTH} levels of nesting")
    return _gpu(path, content)


def _is_shallow(data: bytes) -> bool:
    """False for what would exhaust the stack: composing a document recurses once a level."""
    depth = 0
    for event in yaml.parse(data, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            return False
    return True


def _mapping(path: Path, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise ValueError(f"gpu file {path}: {key} must be a mapping")
    return value


def _check_keys(path: Path, where: str, given: dict[str, Any], known: list[str]) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"gpu file {path}: unknown key {key[:60]!r} in {where}{hint}")
    for key in known:
        if key not in given:
            raise ValueError(f"gpu file {path}: {key} is missing in {where}")


def _text(path: Path, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"gpu file {path}: {key} must be a text of one line")
    return value


def _texts(path: Path, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"gpu file {path}: {key} must be a list of texts")
    return tuple(_text(path, key, item) for item in value)


def _figure(
    path: Path, key: str, entry: object, rule: tuple[float, float, bool]
) -> tuple[float, str]:
    """Value and source of one figure."""
    figure = _mapping(path, key, entry)
    _check_keys(path, key, {"unit": "", **figure}, ["value", "unit", "source"])
    value = figure["value"]
    low, high, whole = rule
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"gpu file {path}: {key} must be a number, got {str(value)[:40]!r}")
    if whole and value != int(value):
        raise ValueError(f"gpu file {path}: {key} must be a whole number, got {value}")
    if not low <= value <= high:
        raise ValueError(f"gpu file {path}: {key} = {value:g} must lie in {low:g}..{high:g}")
    return (int(value) if whole else float(value)), _text(
        path, f"source of {key}", figure["source"]
    )


def _gpu(path: Path, content: object) -> Gpu:
    """Check a parsed file and make the record."""
    top = _mapping(path, "the file", content)
    _check_keys(path, "the file", top, _KEYS)
    if top["schema"] != SCHEMA:
        raise ValueError(f"gpu file {path}: schema must be {SCHEMA}, got {str(top['schema'])[:40]}")
    if top["vendor"] not in _VENDORS:
        raise ValueError(f"gpu file {path}: vendor must be one of {', '.join(_VENDORS)}")
    capability = top["capability"]
    if type(capability) is not int or not 1 <= capability <= 9999:
        raise ValueError(f"gpu file {path}: capability must be a whole number in 1..9999")
    entries = _mapping(path, "figures", top["figures"])
    _check_keys(path, "figures", entries, list(_FIGURES))
    figures = {key: _figure(path, key, entries[key], rule) for key, rule in _FIGURES.items()}
    rates = {
        name: _figure(path, f"tensor_flop_per_clk.{name}", entry, _TENSOR_RATE)
        for name, entry in _mapping(path, "tensor_flop_per_clk", top["tensor_flop_per_clk"]).items()
    }
    native = _texts(path, "native_elements", top["native_elements"])
    for name in native:
        if name not in ELEMENTS:
            raise ValueError(f"gpu file {path}: native_elements: unknown element {name[:40]!r}")
    if set(native) != set(rates):
        raise ValueError(
            f"gpu file {path}: tensor_flop_per_clk must name the native_elements, no more, no less"
        )
    if "fp16" not in rates:
        raise ValueError(f"gpu file {path}: native_elements must hold fp16, others decode to it")
    values: dict[str, Any] = {key: value for key, (value, _) in figures.items()}
    if values["sustained_clock_mhz"] > values["max_clock_mhz"]:
        raise ValueError(f"gpu file {path}: sustained_clock_mhz must not exceed max_clock_mhz")
    if values["smem_bytes_per_cta"] > values["smem_bytes_per_sm"]:
        raise ValueError(f"gpu file {path}: smem_bytes_per_cta must not exceed smem_bytes_per_sm")
    sources = {key: source for key, (_, source) in figures.items()}
    sources |= {f"tensor_flop_per_clk.{key}": source for key, (_, source) in rates.items()}
    return Gpu(
        name=_text(path, "name", top["name"]),
        title=_text(path, "title", top["title"]),
        vendor=top["vendor"],
        capability=capability,
        device_names=_texts(path, "matches", top["matches"]),
        features=frozenset(_texts(path, "features", top["features"])),
        native_elements=frozenset(native),
        tensor_flop_per_clk={key: value for key, (value, _) in rates.items()},
        sources=sources,
        **values,
    )
