"""Faults of every rule, to be planted in a clean folder of tuned configurations."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuned_folders import (
    BODY,
    DOWN,
    ENTRY,
    FP8,
    INT8,
    INT8_SPACED,
    MOE,
    MOE_SPACED,
    OURS,
    TRITON,
    write,
)

Plant = Callable[[Path], dict[str, Any] | None]
SGLANG = f"{OURS}/{MOE_SPACED}"


def replaced(folder: Path, name: str, content: Any) -> None:
    write(folder, {name: content})


def entry(folder: Path, name: str, **changed: Any) -> None:
    """The file's entry at M 64 with other values; ``None`` takes a key away."""
    content = json.loads((folder / name).read_text())
    content["64"] = {k: v for k, v in (content["64"] | changed).items() if v is not None}
    write(folder, {name: content})


def renamed(folder: Path, name: str, to: str) -> None:
    (folder / to).parent.mkdir(exist_ok=True)
    (folder / name).rename(folder / to)


def outside(folder: Path) -> Path:
    path = folder.parent / "outside.json"
    path.write_text("{}")
    return path


def written(name: str, content: Any) -> Plant:
    def plant(folder: Path) -> None:
        replaced(folder, name, content)

    return plant


def changed(name: str, **values: Any) -> Plant:
    def plant(folder: Path) -> None:
        entry(folder, name, **values)

    return plant


def moved(name: str, to: str) -> Plant:
    def plant(folder: Path) -> None:
        renamed(folder, name, to)

    return plant


def text(name: str, old: str, new: str) -> Plant:
    def plant(folder: Path) -> None:
        path = folder / name
        found = path.read_text()
        assert old in found
        path.write_text(found.replace(old, new, 1))

    return plant


def link(target: str) -> Plant:
    def plant(folder: Path) -> None:
        outside(folder)
        (folder / f"N=1,K=1,device_name=x{len(target)},dtype=fp8_w8a8.json").symlink_to(target)

    return plant


def pipe(folder: Path) -> None:
    os.mkfifo(folder / FP8.replace("K=7168", "K=1"))


def both(*plants: Plant) -> Plant:
    def plant(folder: Path) -> None:
        for one in plants:
            one(folder)

    return plant


def asking(plant: Plant | None, **question: Any) -> Plant:
    """A plant with what the check is asked beside it."""

    def planted(folder: Path) -> dict[str, Any]:
        if plant is not None:
            plant(folder)
        return question

    return planted


MODEL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
}


def model(folder: Path) -> dict[str, Any]:
    path = folder.parent / "config.json"
    path.write_text(json.dumps(MODEL))
    return {"model": path, "gpu": "h200", "dtype": "int4_w4a16", "tp": 4}


def model_of_the_other_engine(folder: Path) -> dict[str, Any]:
    """Written with N in pairs, as SGLang counts."""
    name = "E=8,N={n},device_name=NVIDIA_H200,dtype=int4_w4a16.json"
    renamed(folder, name.format(n=14336), name.format(n=7168))
    return model(folder) | {"tp": 1}


def uneven(folder: Path) -> None:
    """Rows of other keys meet where only one file has a key."""
    entry(folder, f"{OURS}/{DOWN}", BLOCK_SIZE_M=32)


#: Rule to (family of the clean folder, what is done to it).
PLANTED: dict[str, tuple[str, Plant]] = {
    "path.link": ("vllm-linear", link("../../outside.json")),
    "path.dots": ("vllm-linear", written("N=1..2.json", BODY)),
    "path.kind": ("vllm-linear", pipe),
    "path.size": ("vllm-linear", written("big.json", b" " * 2_000_001)),
    "name.unknown": ("vllm-linear", written("my-configs.json", BODY)),
    "name.space": ("vllm-linear", moved(FP8, FP8.replace("128,128", "128, 128"))),
    "name.device": ("vllm-linear", moved(FP8, FP8.replace("NVIDIA_H200", "NVIDIA H200"))),
    "name.h200": ("vllm-moe", moved(MOE, MOE.replace("NVIDIA_H200", "NVIDIA_H200_NVL"))),
    "name.spelling": ("vllm-linear", moved(FP8, FP8.replace("N=4096,", "N=04096, "))),
    "name.label": ("vllm-linear", moved(FP8, FP8.replace("fp8_w8a8", "fp8_w8a16"))),
    "name.twin": ("vllm-linear", lambda folder: (folder / INT8_SPACED).unlink()),
    "name.collision": ("vllm-linear", written(INT8, {"1": ENTRY})),
    "folder.version": (
        "sglang-moe",
        lambda folder: (folder / "triton_3_6_0_git1a2b").mkdir(),
    ),
    "folder.unversioned": ("sglang-moe", written(MOE_SPACED.replace("E=64", "E=32"), BODY)),
    "folder.misplaced": ("vllm-linear", moved(FP8, f"{OURS}/{FP8}")),
    "version.other": (
        "vllm-moe",
        asking(None, triton="3.7.0"),
    ),
    "version.key": ("vllm-linear", written(FP8, {"triton_version": TRITON, **BODY})),
    "version.value": ("vllm-moe", written(MOE, {"triton_version": "newest", **BODY})),
    "json.broken": ("vllm-linear", written(FP8, '{"1": {')),
    "json.encoding": ("vllm-linear", written(FP8, b"\xef\xbb\xbf" + json.dumps(BODY).encode())),
    "json.duplicate": ("vllm-linear", text(FP8, '"64": {', '"16": {')),
    "json.constant": ("vllm-linear", text(FP8, '"GROUP_SIZE_M": 8', '"GROUP_SIZE_M": NaN')),
    "body.shape": ("vllm-linear", written(FP8, [{"key": {"M": 1}, "config": ENTRY}])),
    "body.empty": ("vllm-linear", written(FP8, {})),
    "body.key": ("vllm-linear", written(FP8, {**BODY, "tuned_by": "someone"})),
    "body.range": ("vllm-linear", written(FP8, {"0": ENTRY, **BODY})),
    "body.order": ("vllm-linear", written(FP8, {"1024": ENTRY, "1": ENTRY})),
    "entry.missing": ("vllm-linear", changed(FP8, num_warps=None)),
    "entry.extra": ("vllm-linear", changed(FP8, num_ctas=1)),
    "entry.type": ("vllm-linear", changed(FP8, num_stages="3")),
    "entry.range": ("vllm-linear", changed(FP8, num_stages=0)),
    "tile.power": ("vllm-linear", changed(FP8, BLOCK_SIZE_N=96)),
    "tile.dot": ("vllm-linear", changed(FP8, BLOCK_SIZE_M=8)),
    "tile.warps": ("vllm-linear", changed(FP8, num_warps=6)),
    "tile.scale-k": ("sglang-linear", changed(FP8.replace("[128,", "[128, "), BLOCK_SIZE_K=256)),
    "tile.whole-blocks": ("vllm-moe", changed(MOE, BLOCK_SIZE_K=64)),
    "gpu.smem": ("vllm-linear", changed(FP8, BLOCK_SIZE_M=128, num_warps=8, num_stages=9)),
    "gpu.registers": ("vllm-linear", changed(FP8, BLOCK_SIZE_M=256, BLOCK_SIZE_N=128)),
    "down.alone": ("sglang-moe", lambda folder: (folder / SGLANG).unlink()),
    "down.block-m": ("sglang-moe", changed(f"{OURS}/{DOWN}", BLOCK_SIZE_M=32)),
    "model.missing": ("vllm-moe", model),
    "model.int4-n": ("vllm-moe", model_of_the_other_engine),
}
