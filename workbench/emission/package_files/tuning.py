"""Which configuration a call runs with, read from ``configs/`` beside this file.

A folder there holds one kernel and one choice of formats.  ``about.json`` says what the kernel
reads and which GPUs it was tuned for; a file such as ``N=4096,K=4096,device_name=NVIDIA_H200.json``
maps M to the configuration of that shape, and ``default...json`` those of shapes that were never
tuned.  A call takes the entry whose M is nearest in log space.
"""

import json
from pathlib import Path
from typing import Any

from . import _lookup

__all__ = ["candidates", "default", "resolve"]

SCHEMA = "tile-workbench/hub-configs/1"


def _read(folder: Path) -> list["_lookup.ConfigFile"]:
    """The files of one kernel and one choice of formats."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    if about.get("schema") != SCHEMA:
        raise ValueError(f"{folder.name}/about.json does not carry the schema {SCHEMA!r}")
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "about.json":
            continue
        shape, device = _parts(path.name)
        gpu = next(one for one in about["gpus"] if one["device_name"] == device)
        rows = json.loads(path.read_text(encoding="utf-8"))
        content = {
            "schema": _lookup.SCHEMA,
            "kernel": about["kernel"],
            "template": about["template"],
            "formats": about["formats"],
            "gpu": gpu["gpu"],
            "devices": gpu["devices"],
            "layout": gpu["layout"],
            "extents": None if shape is None else [shape[name] for name in about["extents"]],
            "entries": [{"m": int(m), "config": config} for m, config in rows.items()],
        }
        found.append(_lookup.parse_config_file(json.dumps(content)))
    return found


def _parts(name: str) -> tuple[dict[str, int] | None, str | None]:
    """Fixed extents by name, and the device, of a file's name; ``None``: any."""
    shape, _, device = name[: -len(".json")].partition("device_name=")
    pairs = [part.partition("=") for part in shape.split(",") if part not in ("", "default")]
    return {key: int(value) for key, _, value in pairs} or None, device or None


def _read_all() -> tuple["_lookup.ConfigFile", ...]:
    about = sorted((Path(__file__).parent / "configs").glob("*/about.json"))
    return tuple(file for path in about for file in _read(path.parent))


#: Functions look up here: a Hub kernel spells its files otherwise than a wheel.
_lookup.FILES = _read_all()


def resolve(
    kernel: str, formats: tuple[str, ...], extents: tuple[int, ...], m: int, device: str
) -> dict[str, Any]:
    """The configuration that a call runs with.

    Args:
        kernel: kernel family, e.g. ``"triton_gemm"``.
        formats: (recipe, output) or (target, source).
        extents: (N, K) or (columns,).
        m: rows, at least 1.
        device: the driver's name of the GPU.
    """
    return dict(_lookup.choose(kernel, tuple(formats), tuple(extents), m, device).config)


def default(kernel: str, formats: tuple[str, ...], m: int, gpu: str | None) -> dict[str, Any]:
    """The conservative configuration of shapes that were never tuned.

    Args:
        kernel, formats, m: as for :func:`resolve`.
        gpu: as ``about.json`` names it; ``None``: any.
    """
    for file in _lookup.FILES:
        if (file.kernel, file.formats, file.gpu) == (kernel, tuple(formats), gpu):
            if file.extents is None:
                return dict(file.entries)[_lookup.nearest(m, [key for key, _ in file.entries])]
    raise ValueError(f"there is no default of {kernel} for {' '.join(formats)} on {gpu}")


def candidates(kernel: str, formats: tuple[str, ...]) -> list[dict[str, Any]]:
    """Every distinct configuration that ships for these formats: where a tuner may begin."""
    found: list[dict[str, Any]] = []
    for file in _lookup.FILES:
        if (file.kernel, file.formats) == (kernel, tuple(formats)):
            found += [config for _, config in file.entries if config not in found]
    return found
