"""Run the NVFP4 quantisation in CUDA C++ on the CPU: g++ and ``nvfp4_on_host.h``."""

import ctypes
from typing import Any

import numpy as np
from dataflow_on_host import poisoned
from device_on_host import HostArray, compile_library, complaint, device_memory, struct_bytes

from tiles.kernels.cuda import quantize_nvfp4

__all__ = ["bf16_bits", "quantize", "wrong_codes", "wrong_scales"]

_MAIN = """
#include "nvfp4_on_host.h"
#include "quantize_nvfp4.cu"
extern "C" void run_on_host(const void *bytes, u32 grid, u32 threads, u32 smem) {
    Operands p;
    memcpy(&p, bytes, sizeof p);
    host::body = [p] { quantize_nvfp4(p); };
    host::run(grid, grid, threads, smem);
}
extern "C" u64 parameter_bytes() { return sizeof(Operands); }
"""
_STEPS = """
#include "nvfp4_on_host.h"
#include "words.cuh"
#include "e2m1_steps.cuh"
static float outer_of(u32 amax) { return divide_rn(as_float(amax << 16), 2688.0f); }
static float quotient_of(u32 y, float divisor) { return divide_rn(as_float(y << 16), divisor); }
// Of a tensor's largest magnitude: codes that are not those of the quotients, for all scales, of
// all numbers from below the first that is not 0 to the largest there is under the scale.
extern "C" u32 wrong_codes(u32 amax) {
    const float outer = outer_of(amax);
    u32 wrong = !ordinary(outer);
    const Steps poisoned = steps_of(NAN_SCALE, outer);
    for (u32 y = 0; y < 0x8000; y += 7) wrong += (two_codes(y, poisoned) & 0xff) != 0;
    for (u32 code = LEAST_CODE; code <= MOST_CODE; ++code) {
        const Steps steps = steps_of(code, outer);
        const float divisor = multiply_rn(scale_value(code), outer);
        const u32 first = (1 - steps.first) & 0xffff;
        for (u32 y = first - 2; quotient_of(y, divisor) <= 6.5f && y < INFINITY_HALF; y += 2) {
            const u32 found = two_codes(y | (y + 1) << 16, steps);
            wrong += (found & 0xff) != divided_code(y, divisor);
            if (quotient_of(y + 1, divisor) <= 6.5f)
                wrong += (found >> 16 & 0xff) != divided_code(y + 1, divisor);
        }
        wrong += (two_codes(0, steps) & 0xff00ff) != 0 || (two_codes(first / 2, steps) & 0xff) != 0;
    }
    return wrong;
}
// Of all magnitudes of blocks up to the tensor's: codes of scales that are not those of the
// quotients, and numbers beyond what the other test goes to.
extern "C" u32 wrong_scales(u32 amax) {
    const float outer = outer_of(amax);
    i16 table[128];
    for (u32 k = 0; k < 128; ++k) table[k] = tabled_scale(k, outer);
    u32 wrong = 0;
    for (u32 peak = 0; peak <= amax; ++peak) {
        const u32 code = divided_scale_code(peak, outer);
        wrong += tabled_scale_code(peak, table) != code;
        const float divisor = multiply_rn(scale_value(code), outer);
        wrong += quotient_of(peak, divisor) > 6.5f;
    }
    for (u32 peak = INFINITY_HALF; peak < 0x8000; ++peak)
        wrong += tabled_scale_code(peak, table) != NAN_SCALE;
    return wrong;
}
"""


def _steps() -> ctypes.CDLL:
    return compile_library(_STEPS, ())


def wrong_codes(amax: int) -> int:
    """Codes that are not those of quotients, of a tensor whose largest magnitude has these bits."""
    return int(_steps().wrong_codes(amax))


def wrong_scales(amax: int) -> int:
    """Scales of blocks that are not those of quotients, likewise."""
    return int(_steps().wrong_scales(amax))


def bf16_bits(x: np.ndarray) -> np.ndarray:
    """bf16 numbers of fp32 ones that are such already."""
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def quantize(
    x: np.ndarray, *, config: dict[str, Any], ctas: int = 3
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """``quantize_nvfp4.launch`` of bf16 bits on the CPU: what it writes, and the workspace."""
    rows, cols = x.shape
    written = {
        "codes": poisoned((rows, cols // 2), "uint8"),
        "scales": poisoned((rows, cols // 16), "uint8"),
        "tensor_scale": poisoned((1,), "float32"),
        "workspace": np.zeros(quantize_nvfp4.WORKSPACE_WORDS, np.uint32),
    }
    with device_memory({"x": x, **written}) as (there, tell):
        views: dict[str, Any] = {name: HostArray(array) for name, array in there.items()}
        calls, parameters = quantize_nvfp4.prepare(**views, config=config)
        for call in calls:
            made = compile_library(_MAIN, call.options)
            tell(made)
            assert made.parameter_bytes() == np.array(parameters).nbytes
            grid = min(call.ctas, ctas)
            made.run_on_host(struct_bytes(parameters), grid, call.threads, call.smem_bytes)
            wrong = complaint(made)
            assert not wrong, wrong
    return written, written.pop("workspace")
