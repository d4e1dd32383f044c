"""A quantised matrix as bytes: what is written to a file, and read back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiles.formats.codec import Quantized, scale_codes
from tiles.formats.encode import code_dtype, decode
from tiles.formats.packing import pack_codes, unpack_codes
from tiles.formats.tensor import TensorFormat

if TYPE_CHECKING:
    from tiles.formats.torch_codec import QuantizedTensor

__all__ = ["PackedMatrix", "pack", "unpack", "unpack_tensor"]

U8 = NDArray[np.uint8]
#: Codes wider than this lie in fp32 words.
_PACKED_BITS = 16


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
        """
        try:
            rows, cols = (int(extent) for extent in header["shape"].split("x"))
            return cls(
                format=TensorFormat.parse(header["format"]),
                shape=(rows, cols),
                codes=arrays["codes"],
                scales=arrays.get("scales"),
                zero_points=arrays.get("zero_points"),
                tensor_scale=float.fromhex(header["tensor_scale"]),
            )
        except KeyError as missing:
            raise ValueError(f"a packed matrix without {missing}: pass all that was written") from (
                missing
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, and 4 for a tensor scale."""
        two_level = self.format.scaling is not None and self.format.scaling.two_level
        return sum(array.nbytes for array in self.arrays().values()) + 4 * two_level


def pack(quantized: "Quantized | QuantizedTensor") -> PackedMatrix:
    """Pack what :func:`tiles.formats.quantize` or its torch counterpart made, into host memory."""
    if not isinstance(quantized, Quantized):
        quantized = _on_host(quantized)
    fmt = quantized.format
    scales = zeros = None
    if fmt.scaling is not None:
        patterns = np.ascontiguousarray(scale_codes(quantized))
        scales = patterns.astype(patterns.dtype.newbyteorder("<")).view(np.uint8)
    if quantized.zero_points is not None:
        zeros = pack_codes(quantized.zero_points.reshape(1, -1), fmt.element.bits)[0]
    return PackedMatrix(
        format=fmt,
        shape=(quantized.codes.shape[0], quantized.codes.shape[1]),
        codes=_pack_words(quantized, fmt)
        if fmt.element.bits > _PACKED_BITS
        else pack_codes(quantized.codes, fmt.element.bits),
        scales=scales,
        zero_points=zeros,
        tensor_scale=quantized.tensor_scale,
    )


def _pack_words(quantized: Quantized, fmt: TensorFormat) -> U8:
    # tf32 lies in fp32 words, its last 13 bits zero.
    words = quantized.codes.astype(np.uint32) << np.uint32(32 - fmt.element.bits)
    return np.ascontiguousarray(words.astype("<u4")).view(np.uint8)


def unpack(packed: PackedMatrix) -> Quantized:
    """The codes and scales that were packed.

    Raises:
        ValueError: an array is missing, or its size is not that of the format and shape.
    """
    fmt, (rows, cols) = packed.format, packed.shape
    bits = fmt.element.bits
    _check_sizes(packed)
    if bits > _PACKED_BITS:
        words = np.ascontiguousarray(packed.codes).view("<u4").astype(np.uint32)
        codes = words >> np.uint32(32 - bits)
    else:
        codes = unpack_codes(packed.codes, bits, cols)
    scales, zeros = np.ones((1, 1), np.float32), None
    if fmt.scaling is not None:
        grid, stored = fmt.scaling.grid(rows, cols), fmt.scaling.stored
        little = np.dtype(code_dtype(stored)).newbyteorder("<")
        patterns = np.ascontiguousarray(packed.scales).view(little)
        scales = decode(patterns.astype(code_dtype(stored)), stored)
        if packed.zero_points is not None:
            flat = unpack_codes(packed.zero_points.reshape(1, -1), bits, grid[0] * grid[1])
            zeros = flat.reshape(grid)
    return Quantized(
        codes=codes,
        scales=scales,
        format=fmt,
        zero_points=zeros,
        tensor_scale=packed.tensor_scale,
    )


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


def _on_host(quantized: "QuantizedTensor") -> Quantized:
    fmt = quantized.format
    scales = np.ones((1, 1), np.float32)
    if quantized.scales is not None:
        scales = quantized.scales.cpu().numpy()
    zeros = None if quantized.zero_points is None else quantized.zero_points.cpu().numpy()
    outer = quantized.tensor_scale
    return Quantized(
        codes=quantized.bits.cpu().numpy().view(code_dtype(fmt.element)),
        scales=scales,
        format=fmt,
        zero_points=zeros,
        tensor_scale=1.0 if outer is None else float(outer),
    )


def unpack_tensor(packed: PackedMatrix, device: str = "cpu") -> "QuantizedTensor":
    """As :func:`unpack`, into torch tensors on a device, scales in their conventional layout."""
    import torch

    from tiles.formats.torch_codec import QuantizedTensor, empty_scales
    from tiles.formats.torch_encode import code_dtype as torch_dtype

    quantized, fmt = unpack(packed), packed.format
    signed = {1: np.uint8, 2: np.int16, 4: np.int32}[quantized.codes.itemsize]
    bits = torch.from_numpy(quantized.codes.view(signed)).to(device)
    scales = zeros = outer = None
    if fmt.scaling is not None:
        scales = empty_scales(*packed.shape, fmt.scaling, device)
        scales.copy_(torch.from_numpy(quantized.scales))
        if fmt.scaling.two_level:
            outer = torch.tensor(packed.tensor_scale, dtype=torch.float32, device=device)
    if quantized.zero_points is not None:
        zeros = torch.from_numpy(quantized.zero_points).to(device)
    return QuantizedTensor(
        codes=bits.view(torch_dtype(fmt.element)),
        scales=scales,
        format=fmt,
        zero_points=zeros,
        tensor_scale=outer,
    )
