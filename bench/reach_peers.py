"""The peers of a problem by the names that the table gives them, on the operands that ours has.

Imports torch.  A peer that is missing, or does not take the problem, is refused with its reason;
one that answers something else than the product is refused, too: a fast wrong answer is no peer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench import reach
from bench.deep_gemm_peer import aligned_scales, dense_product
from bench.jetfire_peer import released_us
from bench.product_peers import (
    PROBE_ERRORS,
    Launch,
    batched_loop,
    bmm_bf16,
    deep_gemm,
    deep_gemm_loop,
    grouped_loop,
    torch_grouped,
)
from tiles.kernels import Workload
from tiles.kernels.batched_workload import BatchedWorkload
from tiles.kernels.grouped_workload import GroupedWorkload
from tiles.problems import Gemm, Problem
from tiles.recipes import recipe
from tuning.timer import Launchers
from workbench.verification.operands import Pattern, draw_pair
from workbench.verification.rival_products import (
    RIVALS,
    RivalProduct,
    clone,
    make_launch,
    rival_operands,
)

__all__ = ["Peer", "Recorded", "Refused", "open_peer"]

_RIVALS = {rival.name: rival for rival in RIVALS}
#: Root mean square error over the product's from which an answer counts as wrong.  Fast
#: accumulation leaves less than 0.01 at the longest K; a scale or a block that is mixed up 1.
WRONG = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Something to time beside ours."""

    name: str
    launchers: Launchers
    set_bytes: int
    note: str = ""  #: what it does otherwise than ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A peer that is not here: what it took on the same GPU model another time."""

    name: str
    time_us: float
    note: str


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


def _int4(problem: Gemm, seed: int, device: str) -> Peer:
    """4-bit codes in groups of 128 with zero points: w = (code - 8) x scale + zero."""
    m, n, k = problem.shape
    generator = torch.Generator(device=device).manual_seed(seed)
    x = torch.randn(m, k, device=device, generator=generator).to(torch.bfloat16)
    codes = torch.randint(0, 16, (n, k), device=device, generator=generator, dtype=torch.int32)
    packed = torch._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).byte(), 8)
    pairs = torch.rand(k // 128, n, 2, device=device, generator=generator)
    pairs = (pairs * 0.02).to(torch.bfloat16)
    _verify(
        torch._weight_int4pack_mm(x, packed, 128, pairs),
        x.float() @ _int4_weights(codes, pairs).T,
    )
    del codes

    def make() -> Launch:
        operands = x.clone(), packed.clone(), pairs.clone()
        return lambda: torch._weight_int4pack_mm(operands[0], operands[1], 128, operands[2])

    return Peer(
        name=reach.INT4,
        launchers=_fresh(make),
        set_bytes=n * k // 2 + 2 * (m * k + m * n) + 4 * (k // 128) * n,
        note="other codes than ours, zero points included",
    )


def _int4_weights(codes: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """(N, K) float32 of codes (N, K) and (scale, zero) pairs (K / 128, N, 2)."""
    scale, zero = (pairs[..., i].T.float().repeat_interleave(128, 1) for i in (0, 1))
    return (codes - 8).float() * scale + zero


def copied_pair(size: int, device: str) -> torch.Tensor:
    """What a copy reads and what it writes, ``size`` bytes together, up to whole pages of 4 KiB.

    An H200 copies an odd number of lines of 128 bytes at two thirds of its rate, and to an address
    off 4 bytes at a quarter (timed by hand: evidence/h200, the table).
    """
    page = 4096
    return torch.empty(2, -(-size // (2 * page)) * page, dtype=torch.uint8, device=device)


def _copies(size: int, device: str) -> Launchers:
    """Device copies that read and write ``size`` bytes together."""

    def make() -> Launch:
        pair = copied_pair(size, device)
        return lambda: pair[1].copy_(pair[0])

    return _fresh(make)


_MANY: dict[str, Callable[..., Launch]] = {
    reach.LOOP: grouped_loop,
    reach.DEEP_GEMM_LOOP: deep_gemm_loop,
    reach.DEEP_GEMM: deep_gemm,
    reach.TORCH_GROUPED: torch_grouped,
    reach.BATCHED_LOOP: batched_loop,
    reach.BMM: bmm_bf16,
}
_LOOPS = (reach.LOOP, reach.DEEP_GEMM_LOOP)


def _many(name: str, workload: GroupedWorkload | BatchedWorkload) -> Peer:
    """A peer on copies of the workload's own operands."""
    make = _MANY[name]
    note = "counts known on the host" if name in _LOOPS else ""
    made = workload.operands.copy()
    if name == reach.BMM:
        note = "bf16 operands of its own"
        make(workload, made)()
    elif made.a.dtype == torch.int8:
        note = f"{note}; writes unscaled int32, not compared".lstrip("; ")
        make(workload, made)()
    else:
        made.c.fill_(torch.nan)
        make(workload, made)()
        error = workload.verdict(made.c).relative_rms
        if not error < WRONG:
            raise ValueError(f"its answer is wrong: relative error {error:.2g}")

    def launchers(sets: int) -> list[Launch]:
        copies = [workload.operands, *(workload.operands.copy() for _ in range(sets - 1))]
        return [make(workload, copy) for copy in copies]

    return Peer(name=name, launchers=launchers, set_bytes=workload.set_bytes, note=note)


def open_peer(
    name: str, problem: Problem, workload: Workload, seed: int
) -> Peer | Recorded | Refused:
    """Put a peer beside a workload, and see that its answer is right.

    Args:
        name: one of those in :mod:`bench.reach`.
        workload: ours; batched and grouped peers take its operands, the others draw the same by
            ``seed``.
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


def _open(name: str, problem: Problem, workload: Workload, seed: int) -> Peer | Recorded:
    device = workload.device
    if name == reach.COPY:
        size = problem.min_bytes
        peer = Peer(name=name, launchers=_copies(size, device), set_bytes=size)
        peer.launchers(1)[0]()
        return peer
    if isinstance(workload, (GroupedWorkload, BatchedWorkload)):
        return _many(name, workload)
    assert isinstance(problem, Gemm)
    if name in _RIVALS:
        return _torch_product(_RIVALS[name], problem, seed, device)
    if name == reach.MATMUL_WGRAD:
        return _weight_gradient(problem, seed, device)
    if name == reach.INT4:
        return _int4(problem, seed, device)
    if name == reach.JETFIRE:
        gpu = "" if device == "cpu" else torch.cuda.get_device_name()
        time_us, note = released_us(problem, gpu)
        return Recorded(name=name, time_us=time_us, note=note)
    assert name == reach.DEEP_GEMM
    return _dense_deep_gemm(problem, seed, device)
