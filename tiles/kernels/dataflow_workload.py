"""A dataflow problem opened on a GPU: quantised matrices, the launch, the check of its answer."""

from collections.abc import Callable
from typing import Any

import torch

from tiles.formats import Rounding
from tiles.kernels.base import Accuracy, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.dataflow_blocks import BLOCK_OPS
from tiles.kernels.dataflow_operands import EPSILON, PROBABILITY, DataflowOperands, Tensors
from tiles.problems import Dataflow

__all__ = ["DataflowWorkload"]


class DataflowWorkload(DataflowOperands, Workload):
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
        super().__init__(problem, device=device, seed=seed)

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
            rest = {"probability": PROBABILITY, "mask_seed": self.seed + 1}
        elif problem.op not in BLOCK_OPS or problem.op.endswith("-apply"):
            rest = {"epsilon": EPSILON}
        if problem.op.endswith("norm-bwd"):
            sums = dataflow_rows.partial_sums(
                op=problem.op, shape=problem.shape, block=block, config=fields
            )
            held["partials"] = torch.empty(sums, device=self.device)
        return {
            **{name: cupy_view(tensor) for name, tensor in held.items()},
            **rest,
            "op": problem.op,
            "element": problem.target.element.name,
            "block": block,
            "stochastic": problem.target.rounding is Rounding.STOCHASTIC,
            "seed": self.seed,
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
        copies = [self.tensors, *(self.drawn[0].copy() for _ in range(sets - 1))]
        return [self._launcher(copy, config) for copy in copies]

    def check(self, config: TileConfig) -> Accuracy:
        written = self.tensors.written
        self.poison(written)
        self._launcher(self.tensors, config)()
        return self.verdict(written)

    def compile(self, config: TileConfig) -> None:
        self._template.precompile(**self._arguments(self.drawn[0], config))

    @property
    def set_bytes(self) -> int:
        return self.drawn[0].size_bytes
