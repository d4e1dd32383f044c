"""A grouped GEMM opened on a device: random operands and routing, launches, check of the answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from tiles.formats import IntElement, TensorFormat
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.gemm_workload import (
    copied,
    dequantize,
    launch_block,
    multiprocessors,
    must_decode,
)
from tiles.kernels.group_routing import Routing, draw_routing
from tiles.kernels.quantize_torch import quantize_torch, stacked_scales
from tiles.kernels.triton import gemm_grouped
from tiles.problems import GroupedGemm, RowOrder

__all__ = ["GroupedOperands", "GroupedWorkload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedOperands:
    """One copy of a grouped product's operands and output; see ``gemm_grouped.launch``."""

    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    a_scale: torch.Tensor | None
    b_scale: torch.Tensor | None
    offsets: torch.Tensor | None
    counts: torch.Tensor | None
    ids: torch.Tensor | None

    def copy(self) -> "GroupedOperands":
        """The same values in memory of their own, with the same strides."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        copies: dict[str, Any] = {n: None if t is None else copied(t) for n, t in tensors.items()}
        return GroupedOperands(**copies)


class GroupedWorkload(CopiedWorkload[GroupedOperands]):
    """Random normal operands, quantised under the recipe, and random routing, on ``device``.

    Rows of A that no expert uses hold NaN (int8: 127), so that whoever reads them is seen.
    """

    problem: GroupedGemm

    def __init__(
        self,
        problem: GroupedGemm,
        *,
        device: str,
        seed: int,
        decode: bool | None = None,
        num_sms: int | None = None,
        routing: Routing | None = None,
    ) -> None:
        """Choose the routing; operands are drawn on first use.

        Args:
            problem: the products.
            device: ``cuda``, ``cuda:1``, ... or ``cpu`` (Triton's interpreter).
            seed: seeds operands and routing.
            decode: multiply 8-bit floats as fp16; default: where the device has no other way.
            num_sms: multiprocessors; default: the device's.
            routing: instead of a drawn one.
        """
        self.problem = problem
        self.device = device
        self._interpreted = torch.device(device).type == "cpu"
        self._num_sms = multiprocessors(device) if num_sms is None else num_sms
        self._decode = must_decode(problem.recipe, device) if decode is None else decode
        self._seed = seed
        self.routing = draw_routing(problem, seed) if routing is None else routing
        self._references: list[Reference | None] | None = None

    @property
    def decode(self) -> bool:
        """True when 8-bit floats are multiplied as fp16."""
        return self._decode

    def _masked(self) -> bool:
        return self.problem.layout.order is RowOrder.MASKED

    def _groups(self) -> int:
        """Matrices that A comes in."""
        return self.problem.experts if self._masked() else 1

    def _blank(self, device: str) -> GroupedOperands:
        """Operands of the right shapes, dtypes and strides with whatever the memory holds."""
        problem, recipe = self.problem, self.problem.recipe
        groups, experts = self._groups(), problem.experts
        sides: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for count, rows, fmt in (
            (groups, problem.a_rows // groups, recipe.activation),
            (experts, problem.n, recipe.weight),
        ):
            dtype = CODE_DTYPES[fmt.element.name]
            codes = torch.empty(count, rows, problem.k, dtype=dtype, device=device)
            scales = None
            if fmt.scaling is not None:
                scales = stacked_scales(count, rows, problem.k, fmt.scaling, device)
            sides.append((codes, scales))
        (a, a_scale), (b, b_scale) = sides
        c = torch.empty(
            groups,
            problem.c_rows // groups,
            problem.n,
            dtype=CODE_DTYPES[problem.out],
            device=device,
        )
        if not self._masked():
            a, c = a[0], c[0]
            a_scale = None if a_scale is None else a_scale[0]
        order = problem.layout.order
        counted = order in (RowOrder.MASKED, RowOrder.PADDED)
        return GroupedOperands(
            a=a,
            b=b,
            c=c,
            a_scale=a_scale,
            b_scale=b_scale,
            offsets=None
            if self._masked()
            else torch.empty(experts + 1, dtype=torch.int64, device=device),
            counts=torch.empty(experts, dtype=torch.int32, device=device) if counted else None,
            ids=torch.empty(problem.m, dtype=torch.int32, device=device)
            if order is RowOrder.GATHERED
            else None,
        )

    def route(self, operands: GroupedOperands, routing: Routing) -> None:
        """Write another routing's offsets, counts and ids into operands; A stays as it is."""
        if operands.offsets is not None:
            operands.offsets[:-1].copy_(routing.first)
            operands.offsets[-1] = int(routing.first[-1] + routing.counts[-1])
        if operands.counts is not None:
            operands.counts.copy_(routing.counts)
        if operands.ids is not None and routing.ids is not None:
            operands.ids.copy_(routing.ids)

    @cached_property
    def operands(self) -> GroupedOperands:
        """The copy that :meth:`check` uses."""
        problem, recipe = self.problem, self.problem.recipe
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        made = self._blank(self.device)
        _poison(made.a, integer=isinstance(recipe.activation.element, IntElement))
        if made.a_scale is not None:
            made.a_scale.fill_(float("nan"))

        def fill(
            codes: torch.Tensor, scales: torch.Tensor | None, rows: torch.Tensor, fmt: TensorFormat
        ) -> None:
            """Draw rows of a matrix, quantised together."""
            if not len(rows):
                return
            x = torch.randn(len(rows), problem.k, generator=generator, device=self.device)
            drawn, found = quantize_torch(x, fmt)
            bits = torch.uint8 if drawn.element_size() == 1 else drawn.dtype
            codes.view(bits)[rows] = drawn.view(bits)
            if scales is not None and found is not None:
                whole = found.shape[0] != len(rows) or len(scales) == 1
                scales[slice(len(found)) if whole else rows] = found

        if self._masked():
            for expert, count in enumerate(self.routing.counts.tolist()):
                rows = torch.arange(count, device=self.device)
                scales = None if made.a_scale is None else made.a_scale[expert]
                fill(made.a[expert], scales, rows, recipe.activation)
        else:
            read = [self.routing.read(expert) for expert in range(problem.experts)]
            used = torch.zeros(problem.a_rows, dtype=torch.bool)
            used[torch.cat(read)] = True
            rows = used.nonzero().flatten().to(self.device)
            fill(made.a, made.a_scale, rows, recipe.activation)
        every = torch.arange(problem.n, device=self.device)
        for expert in range(problem.experts):
            scales = None if made.b_scale is None else made.b_scale[expert]
            fill(made.b[expert], scales, every, recipe.weight)
        self.route(made, self.routing)
        return made

    def _launcher(self, operands: GroupedOperands, config: TileConfig) -> Callable[[], None]:
        arguments = self._arguments(operands, config)

        def run() -> None:
            gemm_grouped.launch(**arguments)

        return run

    def _arguments(self, operands: GroupedOperands, config: TileConfig) -> dict[str, Any]:
        recipe = self.problem.recipe
        return {
            **{f.name: getattr(operands, f.name) for f in fields(operands)},
            "top_k": self.problem.top_k,
            "a_block": launch_block(recipe.activation),
            "b_block": launch_block(recipe.weight),
            "config": config.to_dict(),
            "decode": self._decode,
            "num_sms": self._num_sms,
        }

    def _copy(self) -> GroupedOperands:
        return self.operands.copy()

    def _values(self, expert: int, routing: Routing) -> tuple[torch.Tensor, torch.Tensor]:
        """An expert's rows and weights, dequantised."""
        recipe, made = self.problem.recipe, self.operands
        rows = routing.read(expert).to(self.device)
        a, a_scale = made.a.flatten(0, -2), made.a_scale
        bits = torch.uint8 if a.element_size() == 1 else a.dtype
        codes = a.view(bits)[rows].view(a.dtype)
        if a_scale is not None:
            if self._masked():
                a_scale = a_scale[expert]
                rows = rows - expert * self.problem.layout.size
            if a_scale.shape[0] > 1:  # a scale of all rows stays as it is
                a_scale = a_scale[rows]
        b_scale = None if made.b_scale is None else made.b_scale[expert]
        return (
            dequantize(codes, a_scale, recipe.activation),
            dequantize(made.b[expert], b_scale, recipe.weight),
        )

    def references(self, routing: Routing | None = None) -> list[Reference | None]:
        """Exact products and their limits, an expert each; ``None`` for experts without rows."""
        if routing is None:
            if self._references is None:
                self._references = self.references(self.routing)
            return self._references
        made: list[Reference | None] = []
        for expert, count in enumerate(routing.counts.tolist()):
            if count == 0:
                made.append(None)
                continue
            arithmetic = gemm_arithmetic(
                self.problem.single(count), decode=self._decode, interpreted=self._interpreted
            )
            made.append(gemm_reference(*self._values(expert, routing), arithmetic))
        return made

    def verdict(self, out: torch.Tensor, routing: Routing | None = None) -> Accuracy:
        """Judge an output that held NaN everywhere before the launch.

        Rows that belong to no expert must still hold it.
        """
        flat = out.flatten(0, -2)
        references = self.references(routing)
        routing = routing or self.routing
        worst, error2, size2, reason = 0.0, 0.0, 0.0, ""
        untouched = torch.ones(len(flat), dtype=torch.bool)
        for expert, reference in enumerate(references):
            if reference is None:
                continue
            rows = routing.written(expert)
            untouched[rows] = False
            found = compare(flat[rows.to(flat.device)], reference)
            worst = max(worst, found.max_error_over_bound)
            size = float(torch.nan_to_num(reference.exact).square().sum())
            error2 += found.relative_rms**2 * size
            size2 += size
            if found.reason and not reason:
                reason = f"expert {expert}: {found.reason}"
        if not bool(flat[untouched.to(flat.device)].isnan().all()) and not reason:
            reason = "a row that belongs to no expert was written"
        relative = math.sqrt(error2 / size2) if size2 else math.sqrt(error2)
        return Accuracy(
            ok=not reason, max_error_over_bound=worst, relative_rms=relative, reason=reason
        )

    def check(self, config: TileConfig) -> Accuracy:
        self.operands.c.fill_(float("nan"))
        self._launcher(self.operands, config)()
        return self.verdict(self.operands.c)

    def compile(self, config: TileConfig) -> None:
        gemm_grouped.precompile(**self._arguments(self._blank(self.device), config))

    @property
    def set_bytes(self) -> int:
        tensors = (getattr(self.operands, f.name) for f in fields(self.operands))
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _poison(codes: torch.Tensor, *, integer: bool) -> None:
    if codes.element_size() == 1:
        codes.view(torch.uint8).fill_(0x7F)  # NaN of both 8-bit floats
    elif not integer:
        codes.fill_(float("nan"))
