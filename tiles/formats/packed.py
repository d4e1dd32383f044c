"""A quantised matrix as bytes: what is written to a file, and read back."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiles.formats.codec import Quantized, scale_codes
from tiles.formats.encode import code_dtype, decode
from tiles.formats.packing import pack_codes, unpack_codes
from tiles.formats.tensor import TensorFormat
from tiles.intake import shown

if TYPE_CHECKING:
    from tiles.formats.torch_codec import QuantizedTensor

__all__ = ["PackedMatrix", "pack", "unpack", "unpack_tensor"]

U8 = NDArray[np.uint8]
#: Codes wider than this lie in fp32 words.
_PACKED_BITS = 16
_SHAPE = re.compile(r"([1-9][0-9]{0,17})x([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMatrix:
    """Bytes of codes and scales, as ``TensorFormat.storage_bytes`` counts them.

    ``arrays()`` and ``header()`` are what a file needs, e.g. tensors and metadata of safetensors;
    ``read`` puts them together again.
    """

    format: TensorFormat
    shape: tuple[int, int]
    codes: U8  #: (rows, bytes of a row), see :mod:`tiles.formats.packing`
    scales: U8 | None = None  #: (grid rows, grid columns x bytes of a scale), little-endian
    zero_points: U8 | None = None  #: of the whole grid, row-major, packed like one row of codes
    tensor_scale: float = 1.0  #: second level, an fp32 number; 1 where there is none

    def arrays(self) -> dict[str, U8]:
        """The byte arrays by name."""
        found = {"codes": self.codes, "scales": self.scales, "zero_points": self.zero_points}
        return {name: array for name, array in found.items() if array is not None}

    def header(self) -> dict[str, str]:
        """The rest, as text: format, shape and the tensor's own scale, in hexadecimal digits."""
        return {
            "format": str(self.format),
            "shape": f"{self.shape[0]}x{self.shape[1]}",
            "tensor_scale": self.tensor_scale.hex(),
        }

    @classmethod
    def read(cls, arrays: dict[str, U8], header: dict[str, str]) -> "PackedMatrix":
        """The matrix whose ``arrays()`` and ``header()`` these are.

        Raises:
            ValueError: something is missing, or a name or a number is malformed.
            TypeError: an array is not of bytes.
        """
        try:
            fmt = TensorFormat.parse(header["format"])
            shape = _shape(header["shape"])
            tensor_scale = _tensor_scale(header["tensor_scale"], fmt)
            codes = arrays["codes"]
        except KeyError as missing:
            raise ValueError(f"a packed matrix without {missing}: pass all that was written") from (
                missing
            )
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
                kind = getattr(array, "dtype", type(array).__name__)
                raise TypeError(f"{name} of a packed matrix are uint8 arrays, got {kind}")
        return cls(
            format=fmt,
            shape=shape,
            codes=codes,
            scales=arrays.get("scales"),
            zero_points=arrays.get("zero_points"),
            tensor_scale=tensor_scale,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, and 4 for a tensor scale."""
        two_level = self.format.scaling is not None and self.format.scaling.two_level
        return sum(array.nbytes for array in self.arrays().values()) + 4 * two_level


def _shape(text: str) -> tuple[int, int]:
    match = _SHAPE.fullmatch(str(text))
    if match is None:
        raise ValueError(
            f"shape {shown(text)} of a packed matrix: rows and columns of at least 1, as 4x64"
        )
    return int(match[1]), int(match[2])


def _tensor_scale(text: str, fmt: TensorFormat) -> float:
    try:
        scale = float.fromhex(str(text))
    except (ValueError, OverflowError):
        scale = math.nan
    if not 0 < scale < math.inf:
        raise ValueError(
            f"tensor_scale {shown(text)} of a packed matrix: a positive number in hexadecimal "
            "digits, as 0x1.8p-3"
        )
    if scale != 1 and (fmt.scaling is None or not fmt.scaling.two_level):
        raise ValueError(f"tensor_scale {shown(text)} of a packed matrix: {fmt} has none, write 1")
    return scale


def pack(quantized: "Quantized | QuantizedTensor") -> PackedMatrix:
    """Pack what :func:`tiles.formats.quantize` or its torch counterpart made, into host memory.

    A tensor is packed where it lies; only the packed bytes come to the host.
    """
    fmt = quantized.format
    if isinstance(quantized, Quantized):
        bits: Any = quantized.codes
        outer = quantized.tensor_scale
        scales = None if fmt.scaling is None else scale_codes(quantized)
    else:
        bits = quantized.bits
        outer = 1.0 if quantized.tensor_scale is None else float(quantized.tensor_scale)
        scales = None if fmt.scaling is None else _on_host(quantized.scale_bits)
    zeros: Any = quantized.zero_points
    if zeros is not None:
        zeros = _on_host(pack_codes(zeros.reshape(1, -1), fmt.element.bits))[0]
    return PackedMatrix(
        format=fmt,
        shape=(bits.shape[0], bits.shape[1]),
        codes=_pack_words(_on_host(bits), fmt)
        if fmt.element.bits > _PACKED_BITS
        else _on_host(pack_codes(bits, fmt.element.bits)),
        scales=None if scales is None else _little_bytes(scales),
        zero_points=zeros,
        tensor_scale=outer,
    )


def _on_host(array: Any) -> NDArray[Any]:
    """A NumPy array, or a tensor of any device as one."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def _little_bytes(patterns: NDArray[Any]) -> U8:
    patterns = np.ascontiguousarray(patterns)
    return patterns.astype(patterns.dtype.newbyteorder("<"), copy=False).view(np.uint8)


def _pack_words(codes: NDArray[Any], fmt: TensorFormat) -> U8:
    # tf32 lies in fp32 words, its last 13 bits zero.
    return _little_bytes(codes.view(np.uint32) << np.uint32(32 - fmt.element.bits))


def unpack(packed: PackedMatrix) -> Quantized:
    """The codes and scales that were packed.

    Raises:
        ValueError: an array is missing, or its size is not that of the format and shape.
    """
    fmt, bits = packed.format, packed.format.element.bits
    _check_sizes(packed)
    return Quantized(
        codes=_unpack_words(packed)
        if bits > _PACKED_BITS
        else unpack_codes(packed.codes, bits, packed.shape[1]),
        scales=np.ones((1, 1), np.float32) if fmt.scaling is None else _unpack_scales(packed),
        format=fmt,
        zero_points=None if packed.zero_points is None else _unpack_zeros(packed),
        tensor_scale=packed.tensor_scale,
    )


def _unpack_words(packed: PackedMatrix) -> NDArray[np.uint32]:
    words = np.ascontiguousarray(packed.codes).view("<u4").astype(np.uint32)
    return words >> np.uint32(32 - packed.format.element.bits)


def _unpack_scales(packed: PackedMatrix) -> NDArray[np.float32]:
    assert packed.format.scaling is not None
    stored = packed.format.scaling.stored
    little = np.dtype(code_dtype(stored)).newbyteorder("<")
    patterns = np.ascontiguousarray(packed.scales).view(little)
    return decode(patterns.astype(code_dtype(stored)), stored)


def _unpack_zeros(packed: PackedMatrix) -> U8:
    assert packed.format.scaling is not None
    assert packed.zero_points is not None
    grid = packed.format.scaling.grid(*packed.shape)
    row = packed.zero_points.reshape(1, -1)
    return unpack_codes(row, packed.format.element.bits, grid[0] * grid[1]).reshape(grid)


def _check_sizes(packed: PackedMatrix) -> None:
    fmt, (rows, cols) = packed.format, packed.shape
    bits = 32 if fmt.element.bits > _PACKED_BITS else fmt.element.bits
    wanted = {"codes": (rows, -(-cols * bits // 8))}
    if fmt.scaling is not None:
        grid = fmt.scaling.grid(rows, cols)
        wanted["scales"] = (grid[0], grid[1] * fmt.scaling.stored.bits // 8)
        if fmt.asymmetric:
            wanted["zero_points"] = (-(-grid[0] * grid[1] * bits // 8),)  # type: ignore[assignment]
    found = {name: array.shape for name, array in packed.arrays().items()}
    if found != wanted:
        raise ValueError(
            f"{fmt} of {rows}x{cols} takes arrays of {wanted}, not {found}: was the file cut short?"
        )


def unpack_tensor(packed: PackedMatrix, device: str = "cpu") -> "QuantizedTensor":
    """As :func:`unpack`, into torch tensors on a device, scales in their conventional layout."""
    import torch

    from tiles.formats.torch_codec import QuantizedTensor, empty_scales
    from tiles.formats.torch_encode import code_dtype as torch_dtype

    _check_sizes(packed)
    fmt, bits = packed.format, packed.format.element.bits
    if bits > _PACKED_BITS:
        patterns = torch.from_numpy(_unpack_words(packed).view(np.int32)).to(device)
    else:
        patterns = unpack_codes(torch.tensor(packed.codes, device=device), bits, packed.shape[1])
    scales = zeros = outer = None
    if fmt.scaling is not None:
        scales = empty_scales(*packed.shape, fmt.scaling, device)
        scales.copy_(torch.from_numpy(_unpack_scales(packed)))
        if fmt.scaling.two_level:
            outer = torch.tensor(packed.tensor_scale, dtype=torch.float32, device=device)
        if packed.zero_points is not None:
            zeros = torch.from_numpy(_unpack_zeros(packed)).to(device)
    return QuantizedTensor(
        codes=patterns.view(torch_dtype(fmt.element)),
        scales=scales,
        format=fmt,
        zero_points=zeros,
        tensor_scale=outer,
    )
