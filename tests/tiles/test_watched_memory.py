"""What the stand-in for a GPU's memory complains of: each fault by itself, and what is no fault."""

import ctypes
import shutil

import numpy as np
import pytest
from device_on_host import compile_library, complaint, device_memory

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

#: What 64 threads of each of two CTAs, one cluster, do with 256 floats of global memory.
KERNEL = """
#define WORDS 4
#include "words.cuh"
static void read(float value) { asm volatile("" ::"x"(value)); }
static void (*bodies[])(float *x, float *shared) = {
%s
};
extern "C" void run_on_host(float *x, u32 which) {
    host::body = [=] {
        SHARED_MEMORY(arena);
        bodies[which](x, (float *)arena);
    };
    host::run(2, 2, 64, 1024);
}
"""
T, C = "threadIdx.x", "blockIdx.x"
FAULTS = {
    "all is well": (f"x[{T} + 64 * {C}] = {T};", ""),
    "a store behind the end": (f"if ({T} == 5) x[256] = 1;", "outside of all memory, at x"),
    "a load before the begin": ("read(x[-1]);", "outside of all memory"),
    "a misaligned vector": ("*(u64 *)(x + 1) = 1;", "not aligned"),
    "two CTAs store": (f"x[{T}] = 1;", "no barrier between"),
    "a neighbour's word": (
        f"shared[{T}] = 1; read(shared[{T} ^ 1]);",
        "no barrier between|nobody has written",
    ),
    "a neighbour's word behind a warp's barrier": (
        f"shared[{T}] = 1; __syncwarp(); read(shared[{T} ^ 1]);", "",
    ),
    "another warp's behind a warp's barrier": (
        f"shared[{T}] = 1; __syncwarp(); read(shared[{T} ^ 32]);",
        "no barrier between|nobody has written",
    ),
    "another warp's behind a barrier": (
        f"shared[{T}] = 1; __syncthreads(); read(shared[{T} ^ 32]);", "",
    ),
    "written again before it was read by all": (
        f"shared[{T}] = 1; __syncthreads(); read(shared[{T} ^ 32]); shared[{T}] = 2;",
        "loads there: no barrier between|stores there: no barrier between",
    ),
    "behind a shuffle alone": (
        f"shared[{T}] = 1; __shfl_xor_sync(~0u, 1.0f, 1); read(shared[{T} ^ 1]);",
        "no barrier between|nobody has written",
    ),
    "never written": (f"read(shared[{T}]);", "nobody has written"),
    "shared memory beyond its end": (f"shared[256 + {T}] = 1;", "outside of all memory"),
    "a neighbour CTA's after its barrier": (
        f"shared[{T}] = 1; cluster_arrive(); cluster_wait();"
        f"read(of_cta(shared + {T}, {C} ^ 1)); cluster_arrive(); cluster_wait();", "",
    ),
    "a neighbour CTA's before its barrier": (
        f"shared[{T}] = 1; __syncthreads(); read(of_cta(shared + {T}, {C} ^ 1));"
        "cluster_arrive(); cluster_wait();",
        "no barrier between|nobody has written",
    ),
    "a neighbour that has left": (
        f"shared[{T}] = 1; cluster_arrive(); cluster_wait(); if ({C} == 1) return;"
        "for (int k = 0; k < 4; ++k) __syncthreads();"
        f"read(of_cta(shared + {T}, 1));",
        "has left",
    ),
    "parts that CTAs send one another": (
        f"send_floats<1>(shared + {T} + 64 * {C}, 1, 0); shares_sent(); await_shares(nullptr, 0);"
        f"read(shared[{T} + 64 * ({C} ^ 1)]);", "",
    ),
    "a part that nobody waited for": (
        f"send_floats<1>(shared + {T} + 64 * {C}, 1, 0); __syncthreads();"
        f"read(shared[{T} + 64 * ({C} ^ 1)]); shares_sent(); await_shares(nullptr, 0);",
        "no barrier between|nobody has written",
    ),
    "a copy that nobody waited for": (
        f"copy_float_async(shared + {T}, x + {T}); __syncthreads();"
        f"read(shared[{T} ^ 1]); copies_done();",
        "no barrier between",
    ),
    "a copy under way at the end": (f"copy_float_async(shared + {T}, x + {T});", "under way"),
    "a barrier that not all come to": (
        f"if ({T} < 32) return; __syncthreads();", "nobody can go on",
    ),
    "a shuffle beyond its warp": ("__shfl_xor_sync(~0u, 1.0f, 32);", "beyond its warp"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_complains_of_what_is_wrong_and_of_nothing_else(name: str) -> None:
    bodies = "".join(f"[](float *x, float *shared) {{ {body} }},\n" for body, _ in FAULTS.values())
    made = compile_library(KERNEL % bodies, ())
    with device_memory({"x": np.zeros(256, np.float32)}) as (there, tell):
        tell(made)
        made.run_on_host(ctypes.c_void_p(there["x"].ctypes.data), list(FAULTS).index(name))
        found = complaint(made)
    wanted = FAULTS[name][1].split("|")
    assert any(part in found for part in wanted) if wanted != [""] else found == "", found
