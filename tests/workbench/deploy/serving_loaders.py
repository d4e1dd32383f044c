"""The engines' loaders, written anew from their documented rules; nothing of ours is imported.

Device names come as drivers give them; kernels take exactly the keys that theirs take.
"""

import json
import re
from pathlib import Path
from typing import Any

Configs = dict[int, dict[str, Any]]


def load(path: Path, *, pops_version: bool = False) -> Configs | None:
    """``{int(key): entry}`` of a file, or ``None`` where there is none."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    if pops_version:
        content.pop("triton_version", None)
    return {int(key): entry for key, entry in content.items()}


def row(configs: Configs, m: int) -> dict[str, Any]:
    """The nearest M; on a tie the first in the file."""
    return configs[min(configs.keys(), key=lambda key: abs(key - m))]


def linear_kernel(
    *,
    BLOCK_SIZE_M: int,
    BLOCK_SIZE_N: int,
    BLOCK_SIZE_K: int,
    GROUP_SIZE_M: int,
    num_warps: int,
    num_stages: int,
) -> tuple[int, ...]:
    """Takes these and nothing else, all of them integers."""
    taken = (BLOCK_SIZE_M, BLOCK_SIZE_N, BLOCK_SIZE_K, GROUP_SIZE_M, num_warps, num_stages)
    assert all(type(value) is int for value in taken)
    return taken


def vllm_linear(
    folder: Path, n: int, k: int, device: str, dtype: str, block: tuple[int, int], *, shared: bool
) -> Configs | None:
    """FP8, and INT8: the per-dtype INT8 loader asks with a blank, the shared one without."""
    blank = " " if dtype == "int8_w8a8" and not shared else ""
    return load(
        folder / f"N={n},K={k},device_name={re.sub(r'[ /]+', '_', device)},dtype={dtype},"
        f"block_shape=[{block[0]},{blank}{block[1]}].json"
    )


def vllm_moe(
    folder: Path,
    experts: int,
    w2_columns: int,
    device: str,
    dtype: str | None,
    block: tuple[int, int] | None,
) -> Configs | None:
    """``w2_columns``: the last extent of the second weight, half of N where int4 is packed."""
    n = w2_columns * 2 if dtype == "int4_w4a16" else w2_columns
    device = device.replace(" ", "_")
    if "H200" in device.split("_"):
        device = "NVIDIA_H200"
    label = "" if dtype is None else f",dtype={dtype}"
    blocks = "" if block is None else f",block_shape=[{block[0]},{block[1]}]"
    name = f"E={experts},N={n},device_name={device}{label}{blocks}.json"
    return load(folder / name, pops_version=True)


def sglang_linear(
    folder: Path, n: int, k: int, device: str, dtype: str, block: tuple[int, int]
) -> Configs | None:
    """With the blank, both dtypes."""
    return load(
        folder / f"N={n},K={k},device_name={device.replace(' ', '_')},dtype={dtype},"
        f"block_shape=[{block[0]}, {block[1]}].json"
    )


def sglang_moe(
    folder: Path,
    triton: str,
    experts: int,
    w2_columns: int,
    device: str,
    dtype: str | None,
    block: tuple[int, int] | None,
    *,
    per_channel: bool = False,
    down: bool = False,
) -> Configs | None:
    """The folder of the very Triton, else the others', newest first: all must read as integers."""
    label = "" if dtype is None else f",dtype={dtype}"
    blocks = "" if block is None else f",block_shape=[{block[0]}, {block[1]}]"
    channel = ",per_channel_quant=True" if per_channel else ""
    name = (
        f"E={experts},N={w2_columns},device_name={device.replace(' ', '_')}"
        f"{label}{blocks}{channel}{'_down' if down else ''}.json"
    )
    exact = load(folder / f"triton_{triton.replace('.', '_')}" / name)
    if exact is not None:
        return exact
    others = [path for path in folder.iterdir() if path.name.startswith("triton_")]
    others.sort(key=lambda path: tuple(map(int, path.name[7:].split("_"))), reverse=True)
    return next((found for path in others if (found := load(path / name)) is not None), None)


def sglang_pair(
    up: Configs, down: Configs | None, m: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both products of experts are launched: the second with the first's BLOCK_SIZE_M."""
    one = dict(row(up, m))
    one.pop("USE_TMA", None)
    two = dict(one) if down is None else dict(row(down, m))
    two.pop("USE_TMA", None)
    two["BLOCK_SIZE_M"] = one["BLOCK_SIZE_M"]
    return linear_kernel(**one), linear_kernel(**two)


def keys(**changed: int) -> tuple[int, ...]:
    """What :func:`linear_kernel` is launched with for ``measured_studies.PLAIN``, or changed."""
    config = {"m": 64, "n": 128, "k": 128, "group": 8, "warps": 4, "stages": 3} | changed
    return tuple(config.values())
