"""A quantisation problem opened on a GPU for the CUDA C++ kernel."""

from collections.abc import Callable
from typing import Any

import torch

from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import quantize_blocks
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.quantize_tiles_workload import Copy, QuantizeTilesWorkload, launch_keywords
from tiles.problems import Quantize

__all__ = ["CudaQuantizeWorkload"]


class CudaQuantizeWorkload(QuantizeTilesWorkload):
    """Random normal values in the source format, kept on ``device``."""

    def __init__(self, problem: Quantize, *, device: str, seed: int) -> None:
        """Open the problem; operands are drawn on first use.

        Args:
            device: ``cuda``, ``cuda:1``, ...
            seed: seeds the input, and stochastic rounding.
        Raises:
            ValueError: not a CUDA device.
        """
        if torch.device(device).type != "cuda":
            raise ValueError(f"device {device!r}: the CUDA C++ kernel needs a CUDA device")
        super().__init__(problem, device=device, seed=seed)

    def _cuda_arguments(self, copy: Copy, config: TileConfig) -> dict[str, Any]:
        """The launcher's arguments: zero-copy CuPy views of the torch tensors."""
        target = self.problem.target.element.name
        keywords = launch_keywords(self.problem, self._seed)
        arrays = {"x": copy.x, **copy.outputs.named()}
        for name in ("codes", "codes_t"):
            if name in arrays:
                arrays[name] = arrays[name].view(CODE_DTYPES[target])
        return {
            **{name: cupy_view(tensor) for name, tensor in arrays.items()},
            "source": self.problem.source,
            "target": target,
            "block": keywords["block"],
            "seed": keywords["seed"],
            "config": config.to_dict(),
        }

    def _launcher(self, copy: Copy, config: TileConfig) -> Callable[[], None]:
        arguments = self._cuda_arguments(copy, config)

        def run() -> None:
            quantize_blocks.launch(**arguments, stream=cupy_stream(self.device))

        return run

    def compile(self, config: TileConfig) -> None:
        quantize_blocks.precompile(**self._cuda_arguments(self._blank(), config))
