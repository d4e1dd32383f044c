"""What kernels on a CUDA device share: its memory, choices of kernels, launches made before."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, empty_scales
from tiles.formats.torch_encode import code_dtype
from tiles.kernels.base import Limits
from tiles.kernels.cupy_views import cupy_stream
from tiles.problems import Problem
from workbench.nn.choices import Choice, Choices
from workbench.nn.cuda_device import gpu_of
from workbench.nn.prepared import layout
from workbench.nn.reference_backend import ReferenceBackend

__all__ = ["CudaLauncher"]


class CudaLauncher(ReferenceBackend):
    """Launches on one device; what no kernel serves is in ``unserved``."""

    name: ClassVar[str] = "cuda"

    def __init__(
        self,
        device: torch.device,
        *,
        tuned: Mapping[str, Choice] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Serve a device.

        Args:
            tuned: problem's text to kernel and configuration; other products take the fastest
                predicted one, all else a family's default.
            limits: of a GPU without a file, where nothing is predicted; default: its GPU file.
        Raises:
            ValueError: as :func:`gpu_of` and :class:`Choices`.
        """
        self.device = device
        gpu = gpu_of(device) if limits is None else None
        chosen = limits if gpu is None else gpu.limits
        assert chosen is not None  # one of the two
        self.choices = Choices(chosen, tuned, gpu=gpu)
        self.unserved: dict[str, str] = {}
        #: Launches that were made before, by kind, layout and formats; none without a GPU, where
        #: every launch is checked.
        self.repeats = device.type == "cuda"
        self._prepared: dict[tuple[object, ...], Any] = {}
        self._streams: dict[int, Any] = {}

    def _choice(self, problem: Problem) -> Choice | None:
        found = self.choices.of(problem)
        if isinstance(found, Choice):
            return found
        self.unserved[str(problem)] = found.reason
        return None

    def _current(self) -> AbstractContextManager[Any]:
        """Its device, current: kernels are launched on that alone."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _stream(self) -> Any:
        """Torch's current stream for CuPy, made once for each."""
        raw = torch.cuda.current_stream(self.device).cuda_stream
        if raw not in self._streams:
            self._streams[raw] = cupy_stream(str(self.device))
        return self._streams[raw]

    def _key(
        self, kind: str, tensors: tuple[torch.Tensor | None, ...], *more: object
    ) -> tuple[object, ...] | None:
        """What a launch is known by that may be made again without its checks."""
        laid = layout(*tensors) if self.repeats else None
        return None if laid is None else (kind, laid, *more)

    def _bare(self, rows: int, cols: int, fmt: TensorFormat) -> QuantizedTensor:
        """As :meth:`_empty`, of blocks whose scales are all written: they hold anything."""
        assert fmt.scaling is not None
        grid = fmt.scaling.grid(rows, cols)
        return QuantizedTensor(
            codes=torch.empty(rows, cols, dtype=code_dtype(fmt.element), device=self.device),
            scales=torch.empty(grid, dtype=torch.float32, device=self.device),
            format=fmt,
        )

    def _empty(self, rows: int, cols: int, fmt: TensorFormat) -> QuantizedTensor:
        """Memory for codes and scales; scales hold zeros, codes anything."""
        assert fmt.scaling is not None
        return QuantizedTensor(
            codes=torch.empty(rows, cols, dtype=code_dtype(fmt.element), device=self.device),
            scales=empty_scales(rows, cols, fmt.scaling, self.device),
            format=fmt,
        )

    def _by_twin(self, what: str, reason: str) -> ReferenceBackend:
        self.unserved[what] = reason
        return ReferenceBackend()
