"""A quantisation to NVFP4 opened on a GPU for the CUDA C++ kernel."""

from collections.abc import Callable
from typing import Any

import torch

from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import quantize_nvfp4
from tiles.kernels.cuda_quantize_workload import CudaQuantizeWorkload
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.quantize_tiles_workload import Copy

__all__ = ["CudaQuantizeNvfp4Workload"]


class CudaQuantizeNvfp4Workload(CudaQuantizeWorkload):
    """Random normal values in bf16, kept on ``device``."""

    def _views(self, copy: Copy) -> dict[str, Any]:
        """The launcher's arrays: zero-copy CuPy views of torch tensors, and a workspace."""
        words = torch.zeros(quantize_nvfp4.WORKSPACE_WORDS, dtype=torch.int32, device=self.device)
        arrays = {"x": copy.x, **copy.outputs.named(), "workspace": words}
        return {name: cupy_view(tensor) for name, tensor in arrays.items()}

    def _launcher(self, copy: Copy, config: TileConfig) -> Callable[[], None]:
        views, fields = self._views(copy), config.to_dict()

        def run() -> None:
            quantize_nvfp4.launch(**views, config=fields, stream=cupy_stream(self.device))

        return run

    def compile(self, config: TileConfig) -> None:
        quantize_nvfp4.precompile(**self._views(self._blank()), config=config.to_dict())
