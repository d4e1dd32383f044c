"""Run ``gemm_hopper_blocks.cu`` with runs on the CPU: NumPy, g++ and ``hopper_on_host.h``."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from host_program import answer, descriptor, made, new_folder
from numpy.typing import NDArray

from tiles.kernels.cuda import gemm_hopper_blocks
from tiles.kernels.cuda.philox_keys import round_keys

SOURCE = Path(gemm_hopper_blocks.__file__).with_suffix(".cu")
_HEADERS = re.compile(r'^#include "hopper(_wgmma|_staging)?\.cuh"$', re.MULTILINE)
#: PTX of the kernel's headers, and the same in C++.
_PTX = (
    (r'asm\("mul\.rn[^;]*;[^;]*;', "result = x * y;"),
    (r'asm\("add\.rn[^;]*;[^;]*;', "result = x + y;"),
    (r'asm\("sub\.rn[^;]*;[^;]*;', "result = x - y;"),
    (r'asm\("fma\.rn[^;]*;[^;]*;', "result = fmaf(x, y, z);"),
    (r'asm volatile\("mov\.b32 %0, 0x4b400000;"[^;]*;', "d = 0x4b400000;"),
    (r'asm\("div\.rn[^;]*;[^;]*;', "result = x / y;"),
    (r'asm\("\{\\n\.reg.*?\);', "result = host_larger(x, y);"),
    (r'asm\("prmt\.b32[^;]*;[^;]*;', "bytes = host_signs(first, second);"),
    (r'asm volatile\("redux\.sync.*?\);\n', "peak = host_peak(__float_as_uint(magnitude));\n"),
    (r'asm volatile\("bar\.sync.*?"memory"\);', "named_sync(CONSUMER_BARRIER + CONSUMERS, 256);"),
    (
        r'asm volatile\("st\.shared\.u16 \[%0\], %1;" ::"r"\((.*?)\),\s*"h"\((.*?)\)'
        r'\s*: "memory"\);',
        r"store_shared16(\1, \2);",
    ),
    (
        r"__shared__ Peaks peaks\[CONSUMERS\];",
        "Peaks *peaks = (Peaks *)shared_bytes(running->cta, ARENA_BASE + HOST_SMEM + 24 * STAGES, "
        "CONSUMERS * sizeof(Peaks));",
    ),
    (r'asm volatile\("setmaxnreg[^;]*;[^;]*;', ""),
    (
        r"    if constexpr \(Count == 4\)\n.*?x\[0\] = load_shared\(from\);",
        '    if (from % (4 * Count)) fail("a misaligned address");\n'
        "    for (int i = 0; i < Count; i++) x[i] = load_shared(from + i * 4);",
    ),
)


def _plain(text: str) -> str:
    for ptx, plain in _PTX:
        text = re.sub(ptx, plain, text, flags=re.DOTALL)
    return text


@cache
def program(options: tuple[str, ...]) -> Path:
    """The kernel with these macros as a program of the CPU."""
    text = _plain(_HEADERS.sub("", SOURCE.read_text()))
    for index, name in enumerate(("full", "empty", "ready")):
        at = f"(ARENA_BASE + HOST_SMEM + {index} * STAGES * 8)"
        assert text.count(f"shared_address({name})") == 1
        text = text.replace(f"shared_address({name})", at)
    whole = "static u64 descriptor_at(u32 low) { return (u64)(1024 >> 4 | 1 << 30) << 32 | low; }\n"
    at = text.index('#include "hopper_raster.cuh"')
    ours = (
        f'#include "hopper_on_host.h"\n{descriptor()}\n{whole}#include "hopper_blocks_on_host.h"\n'
    )
    folder = new_folder()
    for header in (*SOURCE.parent.glob("hopper_*.cuh"), SOURCE.parent / "philox.cuh"):
        (folder / header.name).write_text(_plain(header.read_text()))
    end = '\n#include "hopper_blocks_on_host.cpp"\n'
    whole = "".join((text[:at], ours, text[at:], end))
    return made(folder, whole, options, "-O2", "-ffp-contract=off")


def run(
    codes: tuple[NDArray[np.int8], NDArray[np.int8]],
    grids: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    scales: str,
    config: Mapping[str, int | bool],
    ctas: int,
    seed: int,
    landing: int = 16,
    stalls: int = 0,
    out: str = "fp32",
    key: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int8]] | NDArray[np.float32]:
    """C of a launch of so many CTAs, fp32 or scales and codes; rows of K a multiple of 16 bytes.

    Args:
        stalls: one warpgroup stands still for a while about every so many turns of warps.
        out: fp32, or codes of int8; ``key``: of their rounding.
        landing: turns of warps that a load takes, on average.
    """
    options = gemm_hopper_blocks.options(element="int8", out=out, scales=scales, config=config)
    dynamic = gemm_hopper_blocks.smem_bytes(scales=scales, config=config)
    macros = [f"-DHOST_SMEM={dynamic}", f"-DHOST_LANDING={landing}"]
    macros += [f"-DHOST_STALLS={stalls}"] if stalls else []
    executable = program((*options, *macros))
    (m, k), n = codes[0].shape, codes[1].shape[0]
    parts = [np.ascontiguousarray(part).tobytes() for part in (*codes, *grids, round_keys(key))]
    smem = dynamic + 24 * int(config["stages"]) + 256
    result, complaint = answer(executable, [m, n, k, ctas, seed, smem], parts)
    assert not complaint, complaint
    if out == "fp32":
        return np.frombuffer(result, np.float32).reshape(m, n)
    block = gemm_hopper_blocks.OUTPUTS[out][2]
    grid = (-(-m // block), -(-n // block))
    split = grid[0] * grid[1] * 4
    scale = np.frombuffer(result[:split], np.float32).reshape(grid)
    return scale, np.frombuffer(result[split:], np.int8).reshape(m, n)
