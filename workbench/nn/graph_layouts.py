"""How codes lie in memory: what a compiler is told of them, and what it then gets."""

from typing import Any

import torch

from tiles.formats import Scaling, TensorFormat
from tiles.formats.torch_codec import SCALE_ROW_PADDING, QuantizedTensor
from tiles.formats.torch_encode import code_dtype
from workbench.nn.codes import Codes

__all__ = ["codes_of", "layouts", "promised", "stored"]

_PARTS = ("codes", "scales", "zero_points", "tensor_scale")

_Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def layouts(fmt: TensorFormat, rows: int, cols: int) -> list[_Layout]:
    """Shape, strides and dtype of what is stored of a (rows, cols) matrix."""
    found: list[_Layout] = [((rows, cols), (cols, 1), code_dtype(fmt.element))]
    if fmt.scaling is None:
        return found
    grid = fmt.scaling.grid(rows, cols)
    found.append((grid, _scale_strides(fmt.scaling, grid), torch.float32))
    if fmt.asymmetric:
        found.append((grid, (grid[1], 1), torch.uint8))
    if fmt.scaling.two_level:
        found.append(((), (), torch.float32))
    return found


def _scale_strides(scaling: Scaling, grid: tuple[int, int]) -> tuple[int, int]:
    if scaling.rows != 1 or scaling.cols is None:
        return grid[1], 1
    return 1, -(-grid[0] // SCALE_ROW_PADDING) * SCALE_ROW_PADDING


def promised(fmt: TensorFormat, rows: int, cols: int, device: torch.device) -> list[torch.Tensor]:
    """What a compiler is told of a (rows, cols) matrix; rows may be a symbol."""
    return [
        torch.empty_strided(shape, strides, dtype=dtype, device=device)
        for shape, strides, dtype in layouts(fmt, rows, cols)
    ]


def stored(codes: Codes, source: torch.Tensor) -> list[torch.Tensor]:
    """What is stored, in the layout that :func:`promised` says.

    Args:
        source: in whose memory nothing may lie, as of any operator's results.
    Raises:
        ValueError: a backend has another layout, or stores more than codes and scales.
    """
    made = []
    main = codes.main
    parts = [part for name in _PARTS if (part := getattr(main, name)) is not None]
    told = layouts(main.format, *codes.shape)
    found = [(tuple(part.shape), part.dtype) for part in parts]
    if found != [(shape, dtype) for shape, _, dtype in told] or codes.fallback is not None:
        raise ValueError(
            f"{main.format} is stored as {found}: a compiled graph takes codes an item each and "
            "their scales; train a model on this backend without torch.compile"
        )
    for part, (shape, strides, dtype) in zip(parts, told, strict=True):
        own = part.untyped_storage().data_ptr() != source.untyped_storage().data_ptr()
        if part.stride() != strides or not own:
            laid = torch.empty_strided(shape, strides, dtype=dtype, device=part.device)
            part = laid.copy_(part)
        made.append(part)
    return made


def codes_of(tensors: list[torch.Tensor], fmt: TensorFormat) -> Codes:
    """Codes of what :func:`stored` returned."""
    names = [_PARTS[0]]
    if fmt.scaling is not None:
        names.append(_PARTS[1])
        names += [_PARTS[2]] * fmt.asymmetric + [_PARTS[3]] * fmt.scaling.two_level
    parts: dict[str, Any] = {"scales": None, **dict(zip(names, tensors, strict=True))}
    return Codes(main=QuantizedTensor(format=fmt, **parts))
