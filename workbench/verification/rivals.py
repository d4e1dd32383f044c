"""Times the package and what people would use instead, in one run, under one rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tiles.problems import Gemm
from tuning.timing import Timing, time_interleaved
from workbench.verification.gemm_checks import GemmEntry
from workbench.verification.operands import Pattern
from workbench.verification.quantize_checks import QuantizeEntry
from workbench.verification.recorder import Report

__all__ = ["time_products", "time_quantize"]

Launch = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to time: makes one launch on its own copy of the operands."""

    problem: str
    name: str
    make: Callable[[], Launch]
    set_bytes: int


def _copies(contender: Contender) -> Callable[[int], Sequence[Callable[[], None]]]:
    def launchers(sets: int) -> Sequence[Callable[[], None]]:
        return [_discard(contender.make()) for _ in range(sets)]

    return launchers


def _discard(launch: Launch) -> Callable[[], None]:
    def run() -> None:
        launch()

    return run


def _bytes(*tensors: torch.Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _clone(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A copy with the same strides, padding included."""
    if tensor is None:
        return None
    copy = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    return copy.copy_(tensor)


def _own(entry: GemmEntry) -> Contender:
    a, b = entry.operands(entry.problem, Pattern.RANDOM)
    _, num_sms = entry.package._torch_device.device_facts(a.codes.device)
    template = entry.lookup.template(entry.choice(entry.problem))
    dtype = entry.package._torch_device.DTYPES[entry.problem.out]
    m, n, _ = entry.problem.shape

    def make() -> Launch:
        a_codes, b_codes = a.codes.clone(), b.codes.clone()
        a_scale, b_scale = _clone(a.scales), _clone(b.scales)
        out = torch.empty(m, n, dtype=dtype, device=entry.device)

        def run() -> None:
            template.launch(
                a_codes,
                b_codes,
                out,
                a_scale,
                b_scale,
                a_block=entry.layout["a_block"],
                b_block=entry.layout["b_block"],
                config=entry.config,
                decode=entry.layout["decode"],
                num_sms=num_sms,
            )

        return run

    out_bytes = m * n * torch.empty(0, dtype=dtype).element_size()
    size = _bytes(a.codes, b.codes, a.scales, b.scales) + out_bytes
    return Contender(problem=str(entry.problem), name="this package", make=make, set_bytes=size)


def _plain(m: int, n: int, k: int) -> Contender:
    def make() -> Launch:
        x = torch.randn(m, k, device="cuda").to(torch.bfloat16)
        w = torch.randn(n, k, device="cuda").to(torch.bfloat16)
        out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        return lambda: torch.matmul(x, w.T, out=out)

    size = 2 * (m * k + n * k + m * n)
    return Contender(
        problem=f"gemm:{m}x{n}x{k}", name="torch.matmul bf16", make=make, set_bytes=size
    )


def _integer(m: int, n: int, k: int) -> Contender:
    def make() -> Launch:
        x = torch.randint(-127, 128, (m, k), device="cuda", dtype=torch.int8)
        w = torch.randint(-127, 128, (n, k), device="cuda", dtype=torch.int8)
        return lambda: torch._int_mm(x, w.T)

    size = m * k + n * k + 4 * m * n
    return Contender(problem=f"gemm:{m}x{n}x{k}", name="torch._int_mm", make=make, set_bytes=size)


def _tensor_scales(m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand((), device="cuda") + 0.5, torch.rand((), device="cuda") + 0.5


def _row_scales(m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(m, 1, device="cuda") + 0.5, torch.rand(1, n, device="cuda") + 0.5


def _block_scales(m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """1x128 for A with rows contiguous; 128x128 for B with K contiguous, padded to 4."""
    blocks_k, blocks_n = -(-k // 128), -(-n // 128)
    a = torch.rand(blocks_k, m, device="cuda").t() + 0.5
    b = torch.rand(blocks_n, blocks_k + -blocks_k % 4, device="cuda")[:, :blocks_k].t() + 0.5
    return _strided_like(a, (1, m)), _strided_like(b, (1, blocks_k + -blocks_k % 4))


def _strided_like(tensor: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    copy = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


def _scaled(m: int, n: int, k: int, mode: str, scales: Any, *, fast: bool) -> Contender:
    def make() -> Launch:
        x = torch.randn(m, k, device="cuda").to(torch.float8_e4m3fn)
        w = torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn)
        scale_a, scale_b = scales(m, n, k)
        return lambda: torch._scaled_mm(
            x,
            w.T,
            scale_a=scale_a,
            scale_b=scale_b,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast,
        )

    size = m * k + n * k + 2 * m * n
    name = f"torch._scaled_mm {mode}"
    return Contender(problem=f"gemm:{m}x{n}x{k}", name=name, make=make, set_bytes=size)


def _rivals(m: int, n: int, k: int) -> list[Contender]:
    return [
        _plain(m, n, k),
        _scaled(m, n, k, "tensor, fast accumulation", _tensor_scales, fast=True),
        _scaled(m, n, k, "row, fast accumulation", _row_scales, fast=True),
        _scaled(m, n, k, "1x128 by 128x128", _block_scales, fast=False),
        _integer(m, n, k),
    ]


def _refusal(contender: Contender) -> str:
    """Why a contender cannot run, or ''."""
    try:
        contender.make()()
        torch.cuda.synchronize()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return str(error).strip().splitlines()[0][:300]
    return ""


def _line(contender: Contender, timing: Timing | None, refused: str = "") -> dict[str, Any]:
    samples = () if timing is None else timing.samples_us
    ordered = sorted(samples)
    quartiles = (len(ordered) // 4, (3 * len(ordered)) // 4)
    spread = ordered[quartiles[1]] - ordered[quartiles[0]] if len(ordered) >= 4 else None
    return {
        "rival": {
            "problem": contender.problem,
            "rival": contender.name,
            "time_us": None if timing is None else timing.time_us,
            "iqr_us": spread,
            "samples_us": list(samples),
            "timing": "" if timing is None else timing.timing,
            "refused": refused,
        }
    }


def _time(contenders: Sequence[Contender]) -> Iterator[dict[str, Any]]:
    able = []
    for contender in contenders:
        if refused := _refusal(contender):
            yield _line(contender, None, refused)
        else:
            able.append(contender)
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    timings = time_interleaved([(_copies(c), c.set_bytes) for c in able], l2_bytes=l2_bytes)
    for contender, timing in zip(able, timings, strict=True):
        yield _line(contender, timing)


def time_products(entries: Sequence[GemmEntry], report: Report) -> None:
    """Time every tuned product beside the rivals of its shape."""
    by_shape: dict[tuple[int, int, int], list[GemmEntry]] = {}
    for entry in entries:
        problem: Gemm = entry.problem
        by_shape.setdefault(problem.shape, []).append(entry)
    for (m, n, k), same in by_shape.items():
        for line in _time([*(_own(entry) for entry in same), *_rivals(m, n, k)]):
            report(line)


def time_quantize(entry: QuantizeEntry, report: Report) -> None:
    """Time a tuned Triton quantisation beside a copy of its input, which moves no fewer bytes."""
    rows, cols = entry.problem.shape
    dtype = entry.package._torch_device.DTYPES[entry.problem.source]
    x = torch.randn(rows, cols, device=entry.device).to(dtype)
    codes, scales = entry.package.quantize(x, str(entry.problem.target))

    def own() -> Launch:
        source, target, grid = x.clone(), _clone(codes), _clone(scales)
        assert target is not None
        assert grid is not None
        return lambda: entry.launch(source, target, grid)

    def copy() -> Launch:
        source, target = x.clone(), torch.empty_like(x)
        return lambda: target.copy_(source)

    contenders = [
        Contender(
            problem=str(entry.problem),
            name="this package",
            make=own,
            set_bytes=_bytes(x, codes, scales),
        ),
        Contender(
            problem=str(entry.problem),
            name="torch copy of the input",
            make=copy,
            set_bytes=2 * _bytes(x),
        ),
    ]
    for line in _time(contenders):
        report(line)
