"""The peers of a problem by the names that the table gives them, on the operands that ours has.

Imports torch.  A peer that is missing, or does not take the problem, is refused with its reason;
one that answers something else than the product is refused, too: a fast wrong answer is no peer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench import reach
from bench.deep_gemm_peer import aligned_scales, dense_product
from bench.many_products import peer_launchers
from bench.product_peers import PROBE_ERRORS, deep_gemm, deep_gemm_loop, grouped_loop
from bench.turns import copies
from tiles.kernels import Workload
from tiles.kernels.grouped_workload import GroupedWorkload
from tiles.problems import Gemm, Problem
from tiles.recipes import recipe
from tuning.timing import Launchers
from workbench.verification.operands import Pattern, draw_pair
from workbench.verification.rival_products import (
    RIVALS,
    RivalProduct,
    clone,
    make_launch,
    rival_operands,
)

__all__ = ["Peer", "Refused", "open_peer"]

_RIVALS = {rival.name: rival for rival in RIVALS}
#: Root mean square error over the product's from which an answer counts as wrong.  Fast
#: accumulation leaves less than 0.01 at the longest K; a scale or a block that is mixed up 1.
WRONG = 0.05

Launch = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Something to time beside ours."""

    name: str
    launchers: Launchers
    set_bytes: int
    note: str = ""  #: what it does otherwise than ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a peer is not timed."""

    name: str
    reason: str


def _silent(launch: Launch) -> Callable[[], None]:
    def run() -> None:
        launch()

    return run


def _fresh(make: Callable[[], Launch]) -> Launchers:
    """Launches that each have operands and an output of their own."""
    return lambda sets: [_silent(make()) for _ in range(sets)]


def _relative_rms(got: torch.Tensor, exact: torch.Tensor) -> float:
    difference = got.float() - exact
    return float(difference.norm() / exact.norm())


def _verify(got: torch.Tensor, exact: torch.Tensor) -> None:
    """Refuse a wrong answer.

    Raises:
        ValueError: its error; NaN counts as wrong.
    """
    error = _relative_rms(got, exact)
    if not error < WRONG:
        raise ValueError(f"its answer is wrong: relative error {error:.2g}")


def _exact(shape: tuple[int, int, int], name: str, seed: int, device: str) -> torch.Tensor:
    """The product of a recipe's dequantised operands, (M, N) float32."""
    a, b = draw_pair(shape, recipe(name), Pattern.RANDOM, seed, device)
    return a.values.float() @ b.values.float().T


def _torch_product(rival: RivalProduct, problem: Gemm, seed: int, device: str) -> Peer:
    operands = rival_operands(rival, problem.shape, seed=seed, device=device)
    got = make_launch(rival, operands)()
    assert isinstance(got, torch.Tensor)
    if operands.out_dtype is torch.int32:
        exact = operands.a.float() @ operands.b.float().T  # codes: no scale is applied
    else:
        exact = _exact(problem.shape, rival.recipe, seed, device)
    _verify(got, exact)
    return Peer(
        name=rival.name,
        launchers=_fresh(lambda: make_launch(rival, operands)),
        set_bytes=operands.set_bytes,
        note=rival.note,
    )


def _weight_gradient(problem: Gemm, seed: int, device: str) -> Peer:
    """``dW = dY^T · X`` with dY (K, M) and X (K, N) as the other passes leave them: by token."""
    a, b = draw_pair(problem.shape, recipe("bf16"), Pattern.RANDOM, seed, device)
    tall = a.codes.T.contiguous(), b.codes.T.contiguous()

    def make() -> Launch:
        dy, x = clone(tall[0]), clone(tall[1])
        out = torch.empty(problem.m, problem.n, dtype=torch.bfloat16, device=device)
        return lambda: torch.matmul(dy.T, x, out=out)

    _verify(make()(), _exact(problem.shape, "bf16", seed, device))
    m, n, k = problem.shape
    return Peer(
        name=reach.MATMUL_WGRAD,
        launchers=_fresh(make),
        set_bytes=2 * (m * k + n * k + m * n),
        note="writes bf16",
    )


def _dense_deep_gemm(problem: Gemm, seed: int, device: str) -> Peer:
    a, b = draw_pair(problem.shape, recipe("deepseek-fp8"), Pattern.RANDOM, seed, device)
    assert a.scales is not None
    assert b.scales is not None
    a_scale, b_scale = a.scales, b.scales
    m, n, _ = problem.shape

    def tensors() -> tuple[torch.Tensor, ...]:
        out = torch.full((m, n), torch.nan, dtype=torch.bfloat16, device=device)
        return a.codes.clone(), aligned_scales(a_scale), b.codes.clone(), b_scale.clone(), out

    first = tensors()
    dense_product(*first)()
    _verify(first[-1], a.values.float() @ b.values.float().T)
    return Peer(
        name=reach.DEEP_GEMM,
        launchers=_fresh(lambda: dense_product(*tensors())),
        set_bytes=sum(t.numel() * t.element_size() for t in first),
    )


def _int4(problem: Gemm, seed: int) -> Peer:
    from bench.weight_only import peers

    found = peers(problem, seed)
    if reach.INT4 not in found:
        raise ValueError("it takes at most 64 rows, N in multiples of 8 and K in those of 1024")
    launchers, size = found[reach.INT4]
    return Peer(
        name=reach.INT4,
        launchers=launchers,
        set_bytes=size,
        note="random codes, zero points included",
    )


_GROUPED = {
    reach.LOOP: grouped_loop,
    reach.DEEP_GEMM_LOOP: deep_gemm_loop,
    reach.DEEP_GEMM: deep_gemm,
}


def _grouped(name: str, workload: GroupedWorkload) -> Peer:
    make = _GROUPED[name]
    made = workload.operands.copy()
    made.c.fill_(torch.nan)
    make(workload, made)()
    error = workload.verdict(made.c).relative_rms
    if not error < WRONG:
        raise ValueError(f"its answer is wrong: relative error {error:.2g}")
    return Peer(
        name=name,
        launchers=peer_launchers(workload, make),
        set_bytes=workload.set_bytes,
        note="" if name == reach.DEEP_GEMM else "counts known on the host",
    )


def open_peer(name: str, problem: Problem, workload: Workload, seed: int) -> Peer | Refused:
    """Put a peer beside a workload, and see that its answer is right.

    Args:
        name: one of those in :mod:`bench.reach`.
        workload: ours; grouped peers take its operands, the others draw the same by ``seed``.
        seed: of ``workload``.
    """
    device = workload.device
    try:
        peer = _open(name, problem, workload, seed)
        if device != "cpu":
            torch.cuda.synchronize()
    except PROBE_ERRORS as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Refused(name=name, reason=f"{type(error).__name__}: {first}"[:300])
    return peer


def _open(name: str, problem: Problem, workload: Workload, seed: int) -> Peer:
    if name == reach.COPY:
        size = problem.min_bytes
        peer = Peer(name=name, launchers=copies(size), set_bytes=size)
        peer.launchers(1)[0]()
        return peer
    if isinstance(workload, GroupedWorkload):
        return _grouped(name, workload)
    assert isinstance(problem, Gemm)
    if name in _RIVALS:
        return _torch_product(_RIVALS[name], problem, seed, workload.device)
    if name == reach.MATMUL_WGRAD:
        return _weight_gradient(problem, seed, workload.device)
    if name == reach.INT4:
        return _int4(problem, seed)
    assert name == reach.DEEP_GEMM
    return _dense_deep_gemm(problem, seed, workload.device)
