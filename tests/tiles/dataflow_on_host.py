"""Run the dataflow kernels on the CPU: NumPy arrays, g++ and ``cuda_on_host.h``."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from device_on_host import HostArray, compile_library, complaint, device_memory, struct_bytes

from tiles.formats import Scaling, TensorFormat, dequantize, quantize
from tiles.formats.codec import Quantized
from tiles.kernels.base import Accuracy
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows
from tiles.kernels.dataflow_check import compare, compare_vector
from tiles.kernels.dataflow_reference import Inputs, Outcome, dropped, outcome, statistics
from tiles.problems import DATAFLOW_OPS

_MAIN = """
#include "{source}"
extern "C" void run_on_host(const void *bytes, u32 grid, u32 splits, u32 threads, u32 smem) {{
    {parameters} p;
    memcpy(&p, bytes, sizeof p);
    host::body = [p] {{ {kernel}(p); }};
    host::run(grid, splits, threads, smem);
}}
extern "C" u64 parameter_bytes() {{ return sizeof({parameters}); }}
"""
_SUMS = """
extern "C" void sums_on_host(const float *partials, float *products, float *plain, i64 cols,
                             u32 count, u32 grid) {
    host::body = [=] { dataflow_column_sums(partials, products, plain, cols, count); };
    host::run(grid, 1, 512, 4 * 512);
}
"""


def library(source: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """A kernel for the CPU."""
    rows = source == dataflow_rows.SOURCE
    text = _MAIN.format(
        source=source,
        parameters="RowOperands" if rows else "Operands",
        kernel=source.removesuffix(".cu"),
    )
    if rows and int(next(o for o in options if o.startswith("-DOP="))[5:]) > 2:
        text += _SUMS
    return compile_library(text, options)


def run_blocks(
    arrays: dict[str, Any],
    config: dict[str, int],
    *,
    offsets: dict[str, int] | None = None,
    **rest: Any,
) -> str:
    """``dataflow_blocks.launch`` on the CPU; what it did wrong in memory, or nothing."""
    with device_memory(arrays, offsets=offsets) as (there, tell):
        views: dict[str, Any] = {name: HostArray(array) for name, array in there.items()}
        options, ctas, smem, parameters = dataflow_blocks.prepare(**views, config=config, **rest)
        made = library(dataflow_blocks.SOURCE, options)
        tell(made)
        assert made.parameter_bytes() == np.array(parameters).nbytes
        made.run_on_host(struct_bytes(parameters), ctas, 1, config["threads"], smem)
        return complaint(made)


def run_rows(
    arrays: dict[str, Any],
    config: dict[str, int],
    *,
    offsets: dict[str, int] | None = None,
    **rest: Any,
) -> str:
    """``dataflow_rows.launch`` on the CPU; what it did wrong in memory, or nothing."""
    with device_memory(arrays, offsets=offsets) as (there, tell):
        views: dict[str, Any] = {name: HostArray(array) for name, array in there.items()}
        options, covered, parameters = dataflow_rows.prepare(**views, config=config, **rest)
        made = library(dataflow_rows.SOURCE, options)
        tell(made)
        assert made.parameter_bytes() == np.array(parameters).nbytes
        splits, cols = config["splits"], arrays["x"].shape[1]
        grid, smem = covered.clusters * splits, covered.smem_bytes
        made.run_on_host(struct_bytes(parameters), grid, splits, config["threads"], smem)
        wrong = complaint(made)
        if rest["op"].endswith("-bwd") and not wrong:
            tell(made)  # another launch: what went before is done
            d_beta = there.get("d_beta")
            made.sums_on_host(
                ctypes.c_void_p(there["partials"].ctypes.data),
                ctypes.c_void_p(there["d_gamma"].ctypes.data),
                ctypes.c_void_p(None if d_beta is None else d_beta.ctypes.data),
                ctypes.c_int64(cols),
                covered.clusters,
                dataflow_rows.sum_ctas(cols, plain=d_beta is not None),
            )
            wrong = complaint(made)
        return wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An operator on a matrix, run and judged."""

    op: str
    format: str
    shape: tuple[int, int]
    config: dict[str, int]
    probability: float = 0.0
    seed: int = 2**63 + 12345
    mask_seed: int = 99
    odd: str = ""  #: the array that begins at an odd address


def laid_out(scales: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Scales with M contiguous where blocks are rows of 1xB, else row-major."""
    return np.asfortranarray(scales) if scaling.rows == 1 else np.ascontiguousarray(scales)


def poisoned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An output before it is written."""
    array = np.empty(shape, dtype)
    array.view(np.uint8).reshape(-1)[...] = 0x55
    return array


def judge(case: Case, matrices: list[np.ndarray], statistics_of: np.ndarray | None = None) -> str:
    """Run a case on fp32 matrices (x, and the other one); what is wrong, or nothing."""
    fmt = TensorFormat.parse(case.format)
    plain = TensorFormat(element=fmt.element, scaling=fmt.scaling)
    assert fmt.scaling is not None
    dtype = "int8" if fmt.element.name == "int8" else "uint8"
    inputs = [quantize(matrix, plain) for matrix in matrices]
    return judge_quantized(case, inputs, dtype, statistics_of)


def judge_quantized(
    case: Case, inputs: list[Quantized], dtype: str, statistics_of: np.ndarray | None = None
) -> str:
    """The same on matrices that are quantised already."""
    fmt = TensorFormat.parse(case.format)
    scaling = fmt.scaling
    assert scaling is not None
    rows, cols = case.shape
    blockwise = case.op in dataflow_blocks.OPS
    second = "dy" if blockwise else "other"
    exact = [dequantize(q) for q in inputs]
    rng = np.random.default_rng(rows * 1000 + cols)
    arrays: dict[str, np.ndarray] = {}
    for name, q in zip(("x", second), inputs, strict=False):
        arrays[name] = np.ascontiguousarray(q.codes.view(dtype))
        arrays[f"{name}_scales"] = laid_out(q.scales, scaling)
    arrays["out"] = poisoned(case.shape, dtype)
    arrays["out_scales"] = laid_out(poisoned(inputs[0].scales.shape, "float32"), scaling)
    _, row_vectors, _ = DATAFLOW_OPS[case.op]
    gamma = rng.standard_normal(cols).astype(np.float32)
    beta = rng.standard_normal(cols).astype(np.float32)
    given: dict[str, np.ndarray] = {}
    if row_vectors and case.op.endswith(("-apply", "-bwd")):
        source = exact[0] if statistics_of is None else statistics_of
        found = statistics(source)
        given = {name: found[name][0].astype(np.float32) for name in ("mean", "variance")}
        arrays |= given
    elif row_vectors:
        arrays |= {name: poisoned((rows,), "float32") for name in ("mean", "variance")}
    if case.op not in ("residual",) and row_vectors:
        given["gamma"] = arrays["gamma"] = gamma
        if case.op.startswith("layernorm") and not case.op.endswith("-bwd"):
            given["beta"] = arrays["beta"] = beta
    rest: dict[str, Any] = {
        "op": case.op,
        "element": fmt.element.name,
        "block": (scaling.rows, scaling.cols),
        "stochastic": str(fmt).endswith("+sr"),
        "seed": case.seed,
    }
    inputs64: dict[str, Any] = {name: array.astype(np.float64) for name, array in given.items()}
    if case.op == "dropout":
        below = dataflow_blocks.drop_below(case.probability)
        rest |= {"probability": case.probability, "mask_seed": case.mask_seed}
        inputs64 |= {
            "keep": ~dropped(rows, cols, below, case.mask_seed),
            "keep_scale": float(np.float32(65536 / (65536 - below))),
        }
    if case.op.endswith("norm-bwd"):
        sums = dataflow_rows.partial_sums(
            op=case.op, shape=case.shape, block=rest["block"], config=case.config
        )
        arrays["partials"] = poisoned(sums, "float32")
        arrays["d_gamma"] = poisoned((cols,), "float32")
        if case.op == "layernorm-bwd":
            arrays["d_beta"] = poisoned((cols,), "float32")
    run = run_blocks if blockwise else run_rows
    odd = {case.odd: 1} if case.odd else None
    if wrong := run(arrays, case.config, offsets=odd, **rest):
        return wrong
    with np.errstate(all="ignore"):
        if len(exact) > 1:
            inputs64["other"] = exact[1]
        reference = outcome(case.op, Inputs(x=exact[0], **inputs64))
    accuracy = _compared(arrays, reference, fmt, case.seed)
    if not accuracy.ok:
        return accuracy.reason
    vectors = dict(reference.vectors)
    if case.op == "residual":
        stored = Quantized(codes=arrays["out"].view(np.uint8), scales=arrays["out_scales"],
                           format=fmt)  # fmt: skip
        vectors = statistics(dequantize(stored))
    for name, (value, error) in vectors.items():
        if reason := compare_vector(name, torch.from_numpy(arrays[name]), value, error):
            return reason
    return ""


def _compared(
    arrays: dict[str, np.ndarray], reference: Outcome, fmt: TensorFormat, seed: int
) -> Accuracy:
    values, error = (torch.from_numpy(a) for a in (reference.values, reference.error))
    return compare(
        torch.from_numpy(arrays["out"]),
        torch.from_numpy(arrays["out_scales"]),
        Outcome(values=values, error=error),
        fmt,
        seed,
    )
