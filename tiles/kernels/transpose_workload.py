"""A transposition opened on a device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.cuda import transpose_codes as cuda_codes
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.exact_difference import POISON, first_difference
from tiles.kernels.triton import transpose_codes
from tiles.problems import Transpose

__all__ = ["CudaTransposeWorkload", "TransposeWorkload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    codes: torch.Tensor
    out: torch.Tensor


class TransposeWorkload(CopiedWorkload[_Copy]):
    """Random codes, kept on ``device``."""

    problem: Transpose

    def _blank(self) -> _Copy:
        rows, cols = self.problem.shape
        dtype = CODE_DTYPES[self.problem.element]
        return _Copy(
            codes=torch.empty(rows, cols, dtype=dtype, device=self.device),
            out=torch.empty(cols, rows, dtype=dtype, device=self.device),
        )

    def _copy(self) -> _Copy:
        blank = self._blank()
        blank.codes.view(torch.uint8).copy_(self._drawn)
        return blank

    @cached_property
    def _drawn(self) -> torch.Tensor:
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        return torch.randint(
            0, 256, self.problem.shape, dtype=torch.uint8, generator=generator, device=self.device
        )

    def _launcher(self, copy: _Copy, config: TileConfig) -> Callable[[], None]:
        fields = config.to_dict()
        return lambda: transpose_codes.launch(copy.codes, copy.out, config=fields)

    def check(self, config: TileConfig) -> Accuracy:
        written = self.operands.out.view(torch.uint8)
        written.fill_(POISON)
        self._launcher(self.operands, config)()
        reason = first_difference("out", written, self._drawn.t())
        return Accuracy(
            ok=not reason,
            max_error_over_bound=float("inf") if reason else 0.0,
            relative_rms=float("inf") if reason else 0.0,
            reason=reason,
        )

    def compile(self, config: TileConfig) -> None:
        blank = self._blank()
        transpose_codes.precompile(blank.codes, blank.out, config=config.to_dict())

    @property
    def set_bytes(self) -> int:
        return self.problem.min_bytes


class CudaTransposeWorkload(TransposeWorkload):
    """The same for the CUDA C++ kernel."""

    def __init__(self, problem: Transpose, *, device: str, seed: int) -> None:
        """Open the problem; codes are drawn on first use.

        Args:
            device: ``cuda``, ``cuda:1``, ...
            seed: seeds the codes.
        Raises:
            ValueError: not a CUDA device.
        """
        if torch.device(device).type != "cuda":
            raise ValueError(f"device {device!r}: the CUDA C++ kernel needs a CUDA device")
        super().__init__(problem, device=device, seed=seed)

    def _launcher(self, copy: _Copy, config: TileConfig) -> Callable[[], None]:
        fields = config.to_dict()
        codes, out = cupy_view(copy.codes), cupy_view(copy.out)
        return lambda: cuda_codes.launch(codes, out, config=fields, stream=cupy_stream(self.device))

    def compile(self, config: TileConfig) -> None:
        blank = self._blank()
        cuda_codes.precompile(cupy_view(blank.codes), cupy_view(blank.out), config=config.to_dict())
