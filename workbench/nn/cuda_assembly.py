"""Parts of a matrix that are quantised on a CUDA device where the codes of the whole lie."""

from typing import TYPE_CHECKING, Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels import kernel
from tiles.kernels.cuda import quantize_blocks
from tiles.kernels.cupy_views import cupy_view
from tiles.kernels.triton import placed_tiles
from tiles.problems import Quantize
from workbench.nn.codes import Codes
from workbench.nn.kernel_formats import PLAIN
from workbench.nn.prepared import QuantizeLaunch, TritonLaunch

if TYPE_CHECKING:
    from workbench.nn.cuda_quantizer import CudaQuantizer

__all__ = ["PlacedCodes", "stored_tensors"]


class PlacedCodes:
    """Writes the codes of each part as it comes; the whole one's numbers are never together."""

    def __init__(
        self,
        backend: "CudaQuantizer",
        made: QuantizedTensor,
        turned: QuantizedTensor | None,
        seed: int,
    ) -> None:
        """Write to codes in square blocks of INT8 and, if given, to those of the transpose."""
        self._backend = backend
        self._made, self._turned = made, turned
        stochastic = made.format.rounding is Rounding.STOCHASTIC
        self._seed = seed if stochastic else None

    def put(self, x: torch.Tensor, row: int, col: int) -> None:
        backend, fmt = self._backend, self._made.format
        x = x.contiguous()
        tensors = {"x": x} | stored_tensors(self._made) | stored_tensors(self._turned, "_t")
        place = (row, col)
        shape = self._made.codes.shape
        key = backend._key("placed", (x,), fmt, place, shape, self._turned is None)
        with backend._current():
            if known := backend._prepared.get(key) if key is not None else None:
                known(tensors, self._seed)
                return
            if (options := self._options(x)) is not None:
                views = {name: cupy_view(tensor) for name, tensor in self._typed(tensors).items()}
                options |= {"place": place}
                stream = backend._stream
                quantize_blocks.launch(**views, **options, seed=self._seed, stream=stream())
                if key is not None:
                    backend._prepared[key] = QuantizeLaunch(views, options, self._seed, stream)
                return
            rest: dict[str, Any] = {"place": place, "block": _side(fmt), "seed": self._seed}
            placed_tiles.launch(*tensors.values(), **rest)
            if key is not None:
                call = placed_tiles._call(*tensors.values(), **rest)
                backend._prepared[key] = TritonLaunch([call], tensors)

    def _options(self, x: torch.Tensor) -> dict[str, Any] | None:
        """How the kernel in CUDA C++, which is the faster one, serves a part; None: it does not."""
        fmt, side = self._made.format, _side(self._made.format)
        rows, cols = x.shape
        problem = Quantize(
            rows=rows,
            cols=cols,
            target=fmt,
            source=PLAIN[x.dtype],
            transposed=self._turned is not None,
        )
        family, limits = kernel("cuda_quantize"), self._backend.choices.limits
        if family.refusal(problem, limits) is not None:
            return None
        config = family.default(problem, limits).to_dict()
        return {
            "source": problem.source,
            "target": fmt.element.name,
            "block": (side, side),
            "config": config,
        }

    def _typed(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """With codes as their element's."""
        of = {"codes": self._made, "codes_t": self._turned}
        return tensors | {name: made.codes for name, made in of.items() if made is not None}

    def codes(self) -> Codes:
        return Codes(main=self._made, turned=self._turned)


def _side(fmt: TensorFormat) -> int:
    assert fmt.scaling is not None  # who calls has looked
    assert fmt.scaling.rows is not None
    return fmt.scaling.rows


def stored_tensors(codes: QuantizedTensor | None, end: str = "") -> dict[str, torch.Tensor]:
    """Codes and scales as Triton's launchers take them, by argument; none of none."""
    if codes is None:
        return {}
    assert codes.scales is not None
    return {f"codes{end}": codes.codes.view(torch.uint8), f"scales{end}": codes.scales}
