"""A dataflow problem opened on a GPU: quantised matrices, the launch, the check of its answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import CODE_DTYPES, QuantizedTensor, empty_scales, quantize_tensor
from tiles.formats.torch_random import random_bits
from tiles.kernels.base import Accuracy, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.dataflow import BLOCK_OPS
from tiles.kernels.dataflow_check import compare, compare_vector
from tiles.kernels.dataflow_reference import Inputs, Outcome, outcome, statistics
from tiles.problems import Dataflow

__all__ = ["DataflowWorkload", "drop_mask"]

#: What codes hold before a checked launch; rarely a right answer, never a run of them.
POISON = 0x55
#: Dropout's probability: that of the transformers that Jetfire trains.
PROBABILITY = 0.1
EPSILON = 1e-5


def drop_mask(rows: int, cols: int, below: int, seed: int, device: torch.device) -> torch.Tensor:
    """(rows, cols) bool: which elements dropout drops, as ``dataflow_reference.dropped`` says."""
    count = rows * cols
    words = random_bits(0, (count + 1) // 2, seed, device)
    halves = torch.stack((words & 0xFFFF, words >> 16), dim=-1).view(-1)[:count]
    return (halves < below).view(rows, cols)


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


class DataflowWorkload(Workload):
    """Random normal matrices, quantised under the problem's format; gradients likewise."""

    problem: Dataflow

    def __init__(self, problem: Dataflow, *, device: str, seed: int) -> None:
        """Open the problem; operands are drawn on first use.

        Args:
            device: ``cuda``, ``cuda:1``, ...
            seed: seeds the operands, the rounding and dropout.
        Raises:
            ValueError: not a CUDA device.
        """
        if torch.device(device).type != "cuda":
            raise ValueError(f"device {device!r}: the CUDA C++ kernels need a CUDA device")
        self.problem = problem
        self.device = device
        self._seed = seed

    @property
    def _plain(self) -> TensorFormat:
        return replace(self.problem.target, rounding=Rounding.NEAREST_EVEN)

    @cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(self._seed)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator, device=self.device)

    @cached_property
    def _drawn(self) -> tuple[Tensors, list[QuantizedTensor]]:
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
        """The copy that :meth:`check` uses."""
        return self._drawn[0].copy()

    def _arguments(self, tensors: Tensors, config: TileConfig) -> dict[str, Any]:
        """The launcher's arguments: zero-copy CuPy views of the torch tensors."""
        problem = self.problem
        scaling = problem.target.scaling
        assert scaling is not None
        fields = config.to_dict()
        block = (scaling.rows or 0, scaling.cols or 0)
        held = {**tensors.read, **tensors.written}
        rest: dict[str, Any] = {}
        if problem.op == "dropout":
            rest = {"probability": PROBABILITY, "mask_seed": self._seed + 1}
        elif problem.op not in BLOCK_OPS or problem.op.endswith("-apply"):
            rest = {"epsilon": EPSILON}
        if problem.op.endswith("norm-bwd"):
            covered = dataflow_rows.geometry(
                op=problem.op, shape=problem.shape, block=block, config=fields
            )
            held["partials"] = torch.empty(covered.clusters, 2, problem.cols, device=self.device)
        return {
            **{name: cupy_view(tensor) for name, tensor in held.items()},
            **rest,
            "op": problem.op,
            "element": problem.target.element.name,
            "block": block,
            "stochastic": problem.target.rounding is Rounding.STOCHASTIC,
            "seed": self._seed,
            "config": fields,
        }

    @property
    def _template(self) -> Any:
        return dataflow_blocks if self.problem.op in BLOCK_OPS else dataflow_rows

    def _launcher(self, tensors: Tensors, config: TileConfig) -> Callable[[], None]:
        arguments = self._arguments(tensors, config)
        template = self._template

        def run() -> None:
            template.launch(**arguments, stream=cupy_stream(self.device))

        return run

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        copies = [self.tensors, *(self._drawn[0].copy() for _ in range(sets - 1))]
        return [self._launcher(copy, config) for copy in copies]

    @cached_property
    def _reference(self) -> Outcome:
        problem = self.problem
        tensors, matrices = self._drawn
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
            given["keep"] = ~drop_mask(*problem.shape, below, self._seed + 1, device)
            given["keep_scale"] = 65536 / (65536 - below)
        return outcome(problem.op, Inputs(x=exact[0], epsilon=EPSILON, **given))

    def check(self, config: TileConfig) -> Accuracy:
        written = self.tensors.written
        for name, tensor in written.items():
            if name == "out":
                tensor.view(torch.uint8).fill_(POISON)
            else:
                tensor.fill_(float("nan"))
        self._launcher(self.tensors, config)()
        fmt = self.problem.target
        codes, scales = written["out"], written["out_scales"]
        verdict = compare(codes, scales, self._reference, fmt, self._seed)
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

    def compile(self, config: TileConfig) -> None:
        self._template.precompile(**self._arguments(self._drawn[0], config))

    @property
    def set_bytes(self) -> int:
        return self._drawn[0].size_bytes
