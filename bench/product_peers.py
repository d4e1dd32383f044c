"""What people would run instead of a batched or grouped kernel: loops over the best plain product,
torch's own grouped products, DeepGEMM where it is installed.

Every peer gets the workload's own operands.  Loops know the counts on the host, which real routing
does not give away without a synchronisation; nothing is charged for that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.deep_gemm_peer import aligned_scales, dense_product, function
from tiles.kernels.batched_workload import BatchedOperands, BatchedWorkload
from tiles.kernels.grouped_workload import GroupedOperands, GroupedWorkload
from tiles.problems import RowOrder, SecondOperand

__all__ = [
    "PROBE_ERRORS",
    "Launch",
    "batched_loop",
    "bmm_bf16",
    "deep_gemm",
    "deep_gemm_loop",
    "grouped_loop",
    "torch_grouped",
]

#: A call; torch's also return what they wrote.
Launch = Callable[[], Any]
#: What a peer may raise that is not there, or does not take the problem.
PROBE_ERRORS = (
    AssertionError,  # DeepGEMM's refusals
    ImportError,
    AttributeError,
    MemoryError,  # CuPy's
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _plain(a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, block: bool) -> Launch:
    """One plain product ``c = a · b^T`` by torch: bf16, ``_scaled_mm``, ``_int_mm``."""
    if a_scale is None:
        return lambda: torch.mm(a, b.T, out=c)
    if a.dtype == torch.int8:
        product = torch.empty(c.shape, dtype=torch.int32, device=c.device)
        # The library's product as it is: int32 out, no scales.
        return lambda: torch._int_mm(a, b.T, out=product)
    if block:
        # As it takes them: A's rows contiguous, B's columns of scales padded to 4.
        left = a_scale.T.contiguous().T
        padded = b_scale.new_zeros(len(b_scale), -(-b_scale.shape[1] // 4) * 4)
        right = padded[:, : b_scale.shape[1]].copy_(b_scale).T
    elif a_scale.numel() == b_scale.numel() == 1:
        left, right = a_scale.reshape(()), b_scale.reshape(())
    else:
        left = a_scale.expand(len(a), 1).contiguous()
        right = b_scale.expand(len(b), 1).contiguous().T
    fast = not block
    return lambda: torch._scaled_mm(
        a, b.T, left, right, out=c, out_dtype=c.dtype, use_fast_accum=fast
    )


def _sequence(launches: list[Launch]) -> Launch:
    def run() -> None:
        for launch in launches:
            launch()

    return run


def _blockwise(workload: Any) -> bool:
    return bool(workload.problem.recipe.blockwise)


def grouped_loop(
    workload: GroupedWorkload, made: GroupedOperands, product: Callable[..., Launch] = _plain
) -> Launch:
    """Expert by expert; gathered rows are gathered before and scattered after each product."""
    problem, launches = workload.problem, list[Launch]()
    device, block = workload.device, _blockwise(workload)
    masked = problem.layout.order is RowOrder.MASKED
    flat_a, flat_c = made.a.flatten(0, -2), made.c.flatten(0, -2)
    for expert, count in enumerate(workload.routing.counts.tolist()):
        if not count:
            continue
        b_scale = None if made.b_scale is None else made.b_scale[expert]
        a_scale = made.a_scale
        if a_scale is not None and masked:
            a_scale = a_scale[expert, :count] if a_scale.shape[1] > 1 else a_scale[expert]
        if problem.layout.order is RowOrder.GATHERED:
            read = workload.routing.read(expert).to(device)
            written = workload.routing.written(expert).to(device)
            rows = torch.empty(count, problem.k, dtype=made.a.dtype, device=device)
            out = torch.empty(count, problem.n, dtype=made.c.dtype, device=device)
            bits = torch.uint8 if rows.element_size() == 1 else rows.dtype
            if a_scale is not None and a_scale.shape[0] > 1:
                a_scale = a_scale[read]
            before, after = flat_a.view(bits), rows.view(bits)
            launches.append(partial(torch.index_select, before, 0, read, out=after))
            launches.append(product(rows, made.b[expert], out, a_scale, b_scale, block))
            launches.append(partial(flat_c.index_copy_, 0, written, out))
            continue
        first = int(workload.routing.first[expert])
        span = slice(first, first + count)
        if a_scale is not None and not masked and a_scale.shape[0] > 1:
            a_scale = a_scale[span]
        operands = (flat_a[span], made.b[expert], flat_c[span], a_scale, b_scale)
        launches.append(product(*operands, block))
    return _sequence(launches)


def deep_gemm_loop(workload: GroupedWorkload, made: GroupedOperands) -> Launch:
    """Expert by expert with DeepGEMM's dense kernel."""
    if workload.problem.recipe.name != "deepseek-fp8":
        raise ValueError("it takes e4m3fn under 1x128 and 128x128 scales")

    def product(a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, block: bool) -> Launch:
        return dense_product(a, aligned_scales(a_scale), b, b_scale, c)

    return grouped_loop(workload, made, product)


def torch_grouped(workload: GroupedWorkload, made: GroupedOperands) -> Launch:
    """``torch._grouped_mm`` of bf16, ``torch._scaled_grouped_mm`` of e4m3fn by rows."""
    if workload.problem.layout.order is not RowOrder.CONTIGUOUS:
        raise ValueError("rows must be contiguous by expert")
    assert made.offsets is not None
    ends = made.offsets[1:].to(torch.int32)
    right = made.b.transpose(1, 2)
    if made.a_scale is None or made.b_scale is None:
        return lambda: made.c.copy_(torch._grouped_mm(made.a, right, offs=ends))
    if _blockwise(workload) or made.a_scale.shape[0] == 1:
        raise ValueError("scales must be those of rows")
    a_scale, b_scale = made.a_scale[:, 0].contiguous(), made.b_scale[:, :, 0].contiguous()
    return lambda: torch._scaled_grouped_mm(
        made.a, right, a_scale, b_scale, offs=ends, out_dtype=made.c.dtype, use_fast_accum=True
    )


def deep_gemm(workload: GroupedWorkload, made: GroupedOperands) -> Launch:
    """DeepGEMM's grouped kernels, rows padded to 128 or masked."""
    problem, order = workload.problem, workload.problem.layout.order
    if problem.recipe.name != "deepseek-fp8":
        raise ValueError("it takes e4m3fn under 1x128 and 128x128 scales")
    assert made.a_scale is not None
    right = (made.b, made.b_scale)
    if order is RowOrder.MASKED:
        run = function("m_grouped_fp8_gemm_nt_masked", "m_grouped_gemm_fp8_fp8_bf16_nt_masked")
        left = (made.a, aligned_scales(made.a_scale))
        expected = -(-problem.m // problem.experts)
        return lambda: run(left, right, made.c, made.counts, expected)
    if order is not RowOrder.PADDED or problem.layout.size != 128:
        raise ValueError("it takes rows padded to 128, or masked ones")
    run = function("m_grouped_fp8_gemm_nt_contiguous", "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous")
    last = int(workload.routing.first[-1]) + -(-int(workload.routing.counts[-1]) // 128) * 128
    experts = torch.full((last,), -1, dtype=torch.int32)
    for expert in range(problem.experts):
        experts[workload.routing.written(expert)] = expert
    experts = experts.to(workload.device)
    a, c = made.a[:last], made.c[:last]
    # Of the rows in use: the library would lay out anew a slice of more rows on every call.
    scales = aligned_scales(made.a_scale[:last])
    return lambda: run((a, scales), right, c, experts)


def batched_loop(workload: BatchedWorkload, made: BatchedOperands) -> Launch:
    """Matrix by matrix."""
    turned = workload.problem.second is SecondOperand.KN
    if turned and made.b.element_size() == 1:
        raise ValueError("8-bit products of torch take K-contiguous operands")
    launches = []
    for z in range(workload.problem.batch):
        b = made.b[z].T if turned else made.b[z]
        a_scale = None if made.a_scale is None else made.a_scale[z]
        b_scale = None if made.b_scale is None else made.b_scale[z]
        launches.append(_plain(made.a[z], b, made.c[z], a_scale, b_scale, _blockwise(workload)))
    return _sequence(launches)


def bmm_bf16(workload: BatchedWorkload, made: BatchedOperands) -> Launch:
    """``torch.bmm`` of as many bf16 values: what would run without quantising."""
    a = torch.zeros(made.a.shape, dtype=torch.bfloat16, device=made.a.device).normal_()
    b = torch.zeros(made.b.shape, dtype=torch.bfloat16, device=made.b.device).normal_()
    c = torch.empty(made.c.shape, dtype=torch.bfloat16, device=made.c.device)
    right = b if workload.problem.second is SecondOperand.KN else b.mT
    return lambda: torch.bmm(a, right, out=c)
