"""Clean folders of every family, written as text: nothing of ours makes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENTRY = {
    "BLOCK_SIZE_M": 64,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 128,
    "GROUP_SIZE_M": 8,
    "num_warps": 4,
    "num_stages": 3,
}
SMALL = ENTRY | {"BLOCK_SIZE_M": 16}
BODY: Mapping[str, Any] = {"1": SMALL, "16": SMALL, "64": ENTRY, "1024": ENTRY}

LINEAR = "N=4096,K=7168,device_name=NVIDIA_H200,dtype={dtype},block_shape=[128,{blank}128].json"
EXPERTS = "E=64,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,{blank}128]"
FP8 = LINEAR.format(dtype="fp8_w8a8", blank="")
FP8_SPACED = LINEAR.format(dtype="fp8_w8a8", blank=" ")
INT8 = LINEAR.format(dtype="int8_w8a8", blank="")
INT8_SPACED = LINEAR.format(dtype="int8_w8a8", blank=" ")
MOE = EXPERTS.format(blank="") + ".json"
MOE_SPACED = EXPERTS.format(blank=" ") + ".json"
DOWN = EXPERTS.format(blank=" ") + "_down.json"
PER_TOKEN = (
    "N=4096,K=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8_per_token,"
    "input_dtype=float8_e4m3fn,out_dtype=bfloat16.json"
)
TRITON = "3.6.0"
OURS = "triton_3_6_0"
#: Of no raster group.
UNGROUPED = {
    m: {k: v for k, v in entry.items() if k != "GROUP_SIZE_M"} for m, entry in BODY.items()
}

CLEAN: dict[str, dict[str, Mapping[str, Any]]] = {
    "vllm-linear": {FP8: BODY, INT8: BODY, INT8_SPACED: BODY, PER_TOKEN: UNGROUPED},
    "vllm-moe": {
        MOE: {"triton_version": TRITON, **BODY},
        "E=8,N=14336,device_name=NVIDIA_H200.json": BODY,
        "E=8,N=14336,device_name=NVIDIA_H200,dtype=int4_w4a16.json": {
            m: entry | {"SPLIT_K": 1} for m, entry in BODY.items()
        },
        "E=8,N=7168,device_name=AMD_Instinct_MI300X.json": {
            "1": ENTRY | {"num_stages": 2, "waves_per_eu": 0, "kpack": 2}
        },
    },
    "sglang-linear": {FP8_SPACED: BODY, INT8_SPACED: BODY},
    "sglang-moe": {
        f"{OURS}/{MOE_SPACED}": {m: e | {"USE_TMA": False} for m, e in BODY.items()},
        f"{OURS}/{DOWN}": BODY,
        f"{OURS}/E=8,N=7168,device_name=NVIDIA_H200,dtype=int4_w4a16.json": BODY,
        f"{OURS}/E=8,N=512,device_name=NVIDIA_H200,dtype=int8_w8a8,per_channel_quant=True.json": (
            BODY
        ),
        "triton_3_5_1/E=8,N=512,device_name=NVIDIA_H100_80GB_HBM3.json": BODY,
    },
}


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    """Files by their path: JSON of what is given, text and bytes as they are."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, indent=4) + "\n"
            path.write_text(text)
    return folder


def clean(folder: Path, family: str) -> Path:
    """A folder without a fault."""
    return write(folder, CLEAN[family])


def texts(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
