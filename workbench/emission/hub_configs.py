"""Configuration files as a Hugging Face kernel keeps them: M by configuration, a file a shape."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.emission.package_files.tuning import SCHEMA

__all__ = ["EXTENTS", "device_name", "hub_config_files"]

#: Names of the fixed extents, by the function of a package; others are not in such kernels.
EXTENTS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("N", "K"),
    "quantize": ("columns",),
    "quantize_packed": ("columns",),
    "dequantize": ("columns",),
    "transpose": ("columns",),
}


def device_name(names: Sequence[str], gpu: str) -> str:
    """A GPU as file names have it: what drivers call it, blanks and slashes as ``_``.

    Args:
        names: of drivers, shell patterns among them.
        gpu: name of the GPU file, where no name is plain.
    """
    plain = next((name for name in names if not re.search(r"[*?\[]", name)), gpu)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", plain).strip("_.")


def hub_config_files(files: Mapping[str, str], functions: Mapping[str, str]) -> dict[str, str]:
    """The same configurations in the other spelling.

    Args:
        files: of :func:`workbench.emission.configs.config_files`.
        functions: the function of each kernel family.
    Returns:
        Text by path below ``configs/``.
    """
    folders: dict[str, list[dict[str, Any]]] = {}
    for text in files.values():
        file = json.loads(text)
        folders.setdefault("-".join((file["kernel"], *file["formats"])), []).append(file)
    found = {}
    for folder, members in sorted(folders.items()):
        names = EXTENTS[functions[members[0]["kernel"]]]
        found[f"{folder}/about.json"] = _text(_about(members, names))
        for file in members:
            rows = {str(entry["m"]): entry["config"] for entry in file["entries"]}
            found[f"{folder}/{_name(file, names)}"] = _text(rows)
    return found


def _about(members: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """What the files of a folder have in common, and the GPUs, each once."""
    gpus: dict[str | None, dict[str, Any]] = {}
    for file in members:
        device = _device(file)
        gpus[device] = {
            "device_name": device,
            "gpu": file["gpu"],
            "devices": file["devices"],
            "layout": file["layout"],
        }
    first = members[0]
    return {
        "schema": SCHEMA,
        "kernel": first["kernel"],
        "template": first["template"],
        "formats": first["formats"],
        "extents": list(names),
        "gpus": [gpus[key] for key in sorted(gpus, key=str)],
    }


def _device(file: Mapping[str, Any]) -> str | None:
    return None if file["gpu"] is None else device_name(file["devices"], file["gpu"])


def _name(file: Mapping[str, Any], names: Sequence[str]) -> str:
    shape = ["default"]
    if file["extents"] is not None:
        shape = [f"{name}={n}" for name, n in zip(names, file["extents"], strict=True)]
    device = _device(file)
    return ",".join([*shape, *([] if device is None else [f"device_name={device}"])]) + ".json"


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
