"""Operands of a dataflow operator, drawn at random, and the verdict on its answer; any device."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, empty_scales, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.formats.torch_random import random_bits
from tiles.kernels.base import Accuracy
from tiles.kernels.cuda import dataflow_blocks
from tiles.kernels.dataflow_blocks import BLOCK_OPS
from tiles.kernels.dataflow_check import compare, compare_vector
from tiles.kernels.dataflow_reference import Inputs, Outcome, outcome, statistics
from tiles.problems import Dataflow

__all__ = ["EPSILON", "PROBABILITY", "DataflowOperands", "Tensors", "drop_mask"]

#: What codes hold before a checked launch; rarely a right answer, never a run of them.
POISON = 0x55
#: Dropout's probability: that of the transformers that Jetfire trains.
PROBABILITY = 0.1
EPSILON = 1e-5


def drop_mask(rows: int, cols: int, below: int, seed: int, device: torch.device) -> torch.Tensor:
    """(rows, cols) bool: which elements dropout drops, as ``dataflow_reference.dropped`` says."""
    return (random_bits(0, rows * cols, seed, device) >> 16 < below).view(rows, cols)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """One copy of what an operator reads and writes, by the launcher's names."""

    read: dict[str, torch.Tensor]
    written: dict[str, torch.Tensor]

    def copy(self) -> "Tensors":
        """Fresh memory with the same contents and strides; outputs hold anything."""
        return Tensors(
            read={name: _like(t).copy_(t) for name, t in self.read.items()},
            written={name: _like(t) for name, t in self.written.items()},
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return sum(
            t.numel() * t.element_size() for t in (*self.read.values(), *self.written.values())
        )


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Uninitialised memory of the same strides, which ``empty_like`` would not keep."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )


class DataflowOperands:
    """Random normal matrices, quantised under the problem's format; gradients likewise."""

    problem: Dataflow

    def __init__(self, problem: Dataflow, *, device: str, seed: int) -> None:
        """Keep the problem; operands are drawn on first use.

        Args:
            problem: the operator.
            device: any of torch's.
            seed: seeds the operands, the rounding and dropout.
        """
        self.problem = problem
        self.device = device
        self.seed = seed

    @property
    def _plain(self) -> TensorFormat:
        return replace(self.problem.target, rounding=Rounding.NEAREST_EVEN)

    @cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(self.seed)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator, device=self.device)

    @cached_property
    def drawn(self) -> tuple[Tensors, list[QuantizedTensor]]:
        """Operands, and the matrices among them as quantised tensors."""
        problem, plain = self.problem, self._plain
        rows, cols = problem.shape
        scaling = problem.target.scaling
        assert scaling is not None  # Dataflow refuses formats without scaling
        matrices = [
            quantize_tensor(self._normal(rows, cols), plain) for _ in range(problem.matrices)
        ]
        second = "dy" if problem.op in BLOCK_OPS else "other"
        read: dict[str, torch.Tensor] = {}
        for name, one in zip(("x", second), matrices, strict=False):
            assert one.scales is not None
            read |= {name: one.codes, f"{name}_scales": one.scales}
        codes = torch.empty(rows, cols, dtype=CODE_DTYPES[plain.element.name], device=self.device)
        written = {"out": codes, "out_scales": empty_scales(rows, cols, scaling, self.device)}
        name, _, kind = problem.op.partition("-")
        if name in ("residual", "layernorm", "rmsnorm"):
            moments = {key: self._vector(rows) for key in ("mean", "variance")}
            if kind:
                found = statistics(matrices[0].dequantize(torch.float64))
                for key, tensor in moments.items():
                    tensor.copy_(found[key][0])
                read |= moments
            else:
                written |= moments
        if name in ("layernorm", "rmsnorm"):
            read["gamma"] = self._normal(cols)
            if name == "layernorm" and kind != "bwd":
                read["beta"] = self._normal(cols)
            if kind == "bwd":
                written["d_gamma"] = self._vector(cols)
                if name == "layernorm":
                    written["d_beta"] = self._vector(cols)
        return Tensors(read=read, written=written), matrices

    def _vector(self, extent: int) -> torch.Tensor:
        return torch.empty(extent, device=self.device)

    @cached_property
    def tensors(self) -> Tensors:
        """A copy to work on."""
        return self.drawn[0].copy()

    @cached_property
    def _reference(self) -> Outcome:
        problem = self.problem
        tensors, matrices = self.drawn
        exact = [one.dequantize(torch.float64) for one in matrices]
        given: dict[str, Any] = {
            name: tensors.read[name].double()
            for name in ("mean", "variance", "gamma", "beta")
            if name in tensors.read
        }
        if len(exact) > 1:
            given["other"] = exact[1]
        if problem.op == "dropout":
            below = dataflow_blocks.drop_below(PROBABILITY)
            device = exact[0].device
            given["keep"] = ~drop_mask(*problem.shape, below, self.seed + 1, device)
            given["keep_scale"] = 65536 / (65536 - below)
        return outcome(problem.op, Inputs(x=exact[0], epsilon=EPSILON, **given))

    def poison(self, written: dict[str, torch.Tensor]) -> None:
        """Fill outputs with what is rarely right."""
        for name, tensor in written.items():
            if name == "out":
                tensor.view(torch.uint8).fill_(POISON)
            else:
                tensor.fill_(float("nan"))

    def verdict(self, written: dict[str, torch.Tensor]) -> Accuracy:
        """Judge what an operator wrote, by the names of :attr:`tensors`."""
        fmt = self.problem.target
        codes, scales = written["out"], written["out_scales"]
        verdict = compare(codes, scales, self._reference, fmt, self.seed)
        if not verdict.ok:
            return verdict
        vectors = self._reference.vectors
        if self.problem.op == "residual":
            stored = QuantizedTensor(codes=codes, scales=scales, format=self._plain)
            vectors = statistics(stored.dequantize(torch.float64))
        for name, (value, error) in vectors.items():
            if reason := compare_vector(name, written[name], value, error):
                return replace(verdict, ok=False, max_error_over_bound=float("inf"), reason=reason)
        return verdict
