"""CUDA C++ kernels that misbehave, launched through CuPy on torch's stream and memory."""

from functools import cache
from typing import Any

THREADS = 256
HEAD = 'extern "C" __global__ void act(const float* x, float* out, long long count) {'
AT = "long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;"
SOURCES = {
    "fine": f"{HEAD} {AT} if (at < count) out[at] = 2.0f * x[at] + 1.0f; }}",
    "wrong": f"{HEAD} {AT} if (at < count) out[at] = 2.0f * x[at] + 1.5f; }}",
    "nan": f"{HEAD} {AT} if (at < count) out[at] = (x[at] - x[at]) / (x[at] - x[at]); }}",
    "loop": f"{HEAD} volatile const float* v = x; while (v[0] < 1e30f) {{}} out[0] = v[0]; }}",
    "trap": f'{HEAD} {AT} if (at == 0) asm volatile("trap;"); }}',
    "illegal": f"{HEAD} {AT} out[at + (1LL << 40)] = 1.0f; }}",
    "does_not_compile": f"{HEAD} this is no C++; }}",
}


@cache
def _function(name: str) -> Any:
    import cupy

    return cupy.RawModule(code=SOURCES[name]).get_function("act")


def launch(name: str, x: Any, out: Any) -> None:
    """Run a source on all of ``x``, torch tensors of one length."""
    import numpy as np

    from tiles.kernels.cupy_views import cupy_stream

    count = x.numel()
    arguments = (np.uint64(x.data_ptr()), np.uint64(out.data_ptr()), np.int64(count))
    with cupy_stream("cuda"):
        _function(name)((-(-count // THREADS),), (THREADS,), arguments)
