"""Packed codes, scale tiles, and the bytes of whole quantised matrices."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.formats import TensorFormat, packing, quantize, scale_codes
from tiles.formats.packed import PackedMatrix, pack, unpack, unpack_tensor
from tiles.formats.packing import (
    pack_codes,
    row_bytes,
    swizzle_scales,
    unpack_codes,
    unswizzle_scales,
)
from tiles.formats.torch_codec import quantize_tensor

FORMATS = (
    "bf16",
    "fp16",
    "fp32",
    "tf32",
    "e4m3fn.mx",
    "e3m2fn.mx",
    "e2m1fn.mx",
    "nvfp4",
    "int4.g32",
    "uint4.g32",
    "uint8.b5x7",
    "nf4.g64",
    "int8.row",
    "int3.g32",
    "uint3.g32",
    "int16.row",
    "posit6es1",
    "e4m3fn.b1x128+bf16",
    "e6m5.row",
)


def reference_row(codes: list[int], bits: int) -> bytes:
    """A row as one long number, the first code in its lowest bits, written little-endian."""
    number = sum(code << (bits * place) for place, code in enumerate(codes))
    return number.to_bytes(row_bytes(len(codes), bits), "little")


@settings(max_examples=150, deadline=None)
@given(bits=st.integers(2, 16), rows=st.integers(1, 3), cols=st.integers(1, 40), data=st.data())
def test_rows_are_little_endian_numbers(
    bits: int, rows: int, cols: int, data: st.DataObject
) -> None:
    code = st.integers(0, 2**bits - 1)
    matrix = [data.draw(st.lists(code, min_size=cols, max_size=cols)) for _ in range(rows)]
    codes = np.array(matrix, np.uint8 if bits <= 8 else np.uint16)
    packed = pack_codes(codes, bits)
    assert [row.tobytes() for row in packed] == [reference_row(row, bits) for row in matrix]
    np.testing.assert_array_equal(unpack_codes(packed, bits, cols), codes)
    signed = torch.from_numpy(codes if bits <= 8 else codes.view(np.int16))
    by_torch = pack_codes(signed, bits)
    np.testing.assert_array_equal(by_torch.numpy(), packed)
    assert torch.equal(unpack_codes(by_torch, bits, cols), signed)


@pytest.mark.parametrize("bits", [3, 4, 6, 12])
def test_pieces_make_the_same_bytes(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = np.uint8 if bits <= 8 else np.int16
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (11, 77)).astype(dtype)
    whole = pack_codes(codes.view(f"u{codes.itemsize}"), bits)
    for limit in (8, 40, 200):
        monkeypatch.setattr(packing, "PIECE_ELEMENTS", limit)
        for array in (codes.view(f"u{codes.itemsize}"), torch.from_numpy(codes)):
            packed = pack_codes(array, bits)
            np.testing.assert_array_equal(np.asarray(packed), whole)
            again = unpack_codes(packed, bits, 77)
            np.testing.assert_array_equal(np.asarray(again), np.asarray(array))


@pytest.mark.parametrize("bits", [4, 6])
def test_packing_takes_little_memory_beside_its_result(bits: int) -> None:
    codes = np.zeros((64, 1 << 17), np.uint8)
    for work, what in ((pack_codes, (codes, bits)), (unpack_codes, None)):
        arguments = what or (pack_codes(codes, bits), bits, codes.shape[1])
        tracemalloc.start()
        result = work(*arguments)  # type: ignore[operator]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - result.nbytes <= 4 * packing.PIECE_ELEMENTS, work.__name__


def test_even_element_of_four_bits_lies_in_the_low_nibble() -> None:
    packed = pack_codes(np.array([[0x1, 0xA, 0x3]], np.uint8), 4)
    assert packed.tolist() == [[0xA1, 0x03]]


def test_four_elements_of_six_bits_lie_in_three_bytes_little_endian() -> None:
    packed = pack_codes(np.array([[0b000001, 0b000010, 0b000011, 0b100000]], np.uint8), 6)
    assert packed.tolist() == [[0b10000001, 0b00110000, 0b10000000]]


def test_packing_refuses_what_it_cannot_pack() -> None:
    codes = np.full((2, 3), 16, np.uint8)
    with pytest.raises(ValueError, match="more than 4 bits"):
        pack_codes(codes, 4)
    with pytest.raises(ValueError, match="2 to 16 bits are packed, not of 32"):
        pack_codes(codes, 32)
    with pytest.raises(ValueError, match=r"a matrix, got shape \(6,\)"):
        pack_codes(codes.reshape(-1), 6)
    with pytest.raises(TypeError, match="takes uint8 here, got int64"):
        pack_codes(codes.astype(np.int64), 6)
    with pytest.raises(TypeError, match=r"uint16 or int16 here, got torch\.uint8"):
        pack_codes(torch.from_numpy(codes), 12)
    free: Any = pack_codes
    with pytest.raises(TypeError, match="takes an array or a tensor, got list: make it one"):
        free([[1]], 4)
    with pytest.raises(TypeError, match=r"width 4\.0 of a code: an integer of 2 to 16"):
        free(codes, 4.0)
    with pytest.raises(ValueError, match="-4 codes in a row: at least 0"):
        unpack_codes(np.zeros((1, 2), np.uint8), 4, -4)
    with pytest.raises(ValueError, match="5 codes of 4 bits are packed in 3 bytes a row, not 2"):
        unpack_codes(np.zeros((1, 2), np.uint8), 4, 5)


@pytest.mark.parametrize("shape", [(128, 4), (1, 1), (200, 9), (256, 8)], ids=str)
def test_scale_of_each_block_lies_where_the_layout_says(shape: tuple[int, int]) -> None:
    rows, cols = shape
    scales = np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)
    swizzled = swizzle_scales(scales)
    across = -(-cols // 4)
    assert swizzled.shape == (-(-rows // 128) * across * 512,)
    wanted = np.zeros_like(swizzled)
    for r in range(rows):
        for c in range(cols):
            tile = (r // 128 * across + c // 4) * 512
            wanted[tile + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = scales[r, c]
    np.testing.assert_array_equal(swizzled, wanted)
    np.testing.assert_array_equal(unswizzle_scales(swizzled, rows, cols), scales)
    by_torch = swizzle_scales(torch.from_numpy(scales))
    np.testing.assert_array_equal(by_torch.numpy(), wanted)
    assert torch.equal(unswizzle_scales(by_torch, rows, cols), torch.from_numpy(scales))


def test_scale_tiles_refuse_other_sizes_and_types() -> None:
    with pytest.raises(ValueError, match="200x9 blocks take 3072 bytes in tiles of 128x4, not 512"):
        unswizzle_scales(np.zeros(512, np.uint8), 200, 9)
    with pytest.raises(TypeError, match="takes uint8 here, got float32"):
        swizzle_scales(np.ones((128, 4), np.float32))


@pytest.mark.parametrize("name", ["e4m3fn.mx", "nvfp4", "e4m3fn.b1x32+e4m3fn", "int4.g32"])
def test_scale_patterns_of_torch_are_those_of_numpy(name: str) -> None:
    x = np.random.default_rng(1).standard_normal((7, 70)).astype(np.float32)
    x[0, :32], x[3, 40], x[5] = 0, np.nan, x[5] * np.float32(1e-38)
    fmt = TensorFormat.parse(name)
    patterns = quantize_tensor(torch.from_numpy(x), fmt).scale_bits.numpy()
    wanted = scale_codes(quantize(x, fmt))
    np.testing.assert_array_equal(patterns.view(wanted.dtype), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_a_packed_file_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    fmt = TensorFormat.parse(name)
    x = np.random.default_rng(2).standard_normal((9, 131)).astype(np.float32)
    x[2, 3], x[4] = np.nan, 0
    once = quantize(x, fmt)
    packed = pack(once)
    assert packed.nbytes == fmt.storage_bytes(9, 131)
    np.savez(tmp_path / "matrix.npz", **packed.arrays())
    with np.load(tmp_path / "matrix.npz") as file:
        read = PackedMatrix.read(dict(file), packed.header())
    again = unpack(read)
    assert again.format == fmt
    assert again.tensor_scale == once.tensor_scale
    np.testing.assert_array_equal(again.codes, once.codes)
    np.testing.assert_array_equal(again.scales, once.scales)
    assert (again.zero_points is None) == (once.zero_points is None)
    if once.zero_points is not None:
        np.testing.assert_array_equal(again.zero_points, once.zero_points)

    tensor = quantize_tensor(torch.from_numpy(x), fmt)
    assert pack(tensor).arrays().keys() == packed.arrays().keys()
    for key, array in pack(tensor).arrays().items():
        np.testing.assert_array_equal(array, packed.arrays()[key], err_msg=key)
    back = unpack_tensor(read)
    assert back.codes.dtype == tensor.codes.dtype
    assert torch.equal(back.bits, tensor.bits)
    np.testing.assert_array_equal(back.dequantize().numpy(), tensor.dequantize().numpy())


def test_a_packed_matrix_names_what_is_missing() -> None:
    packed = pack(quantize(np.ones((4, 64), np.float32), TensorFormat.parse("nvfp4")))
    arrays, header = packed.arrays(), packed.header()
    with pytest.raises(ValueError, match="without 'format'"):
        PackedMatrix.read(arrays, {"shape": "4x64"})
    for key, text, message in (
        ("shape", "4", "shape '4' of a packed matrix: rows and columns of at least 1"),
        ("shape", "0x4", "shape '0x4'"),
        ("shape", "-4x64", "shape '-4x64'"),
        ("shape", "4x64x1", "shape '4x64x1'"),
        ("shape", "axb", "shape 'axb'"),
        ("tensor_scale", "nan", "tensor_scale 'nan' of a packed matrix: a positive number"),
        ("tensor_scale", "inf", "tensor_scale 'inf'"),
        ("tensor_scale", "0x0p0", "tensor_scale '0x0p0'"),
        ("tensor_scale", "-0x1p0", "tensor_scale '-0x1p0'"),
        ("tensor_scale", "0x1p99999", "tensor_scale '0x1p99999'"),
        ("tensor_scale", "much", "tensor_scale 'much'"),
        ("format", "e9m9", "unknown element format 'e9m9'"),
    ):
        with pytest.raises(ValueError, match=message):
            PackedMatrix.read(arrays, header | {key: text})
    with pytest.raises(ValueError, match=r"tensor_scale '0x1p1' .*: e4m3fn\.mx has none, write 1"):
        PackedMatrix.read(arrays, header | {"format": "e4m3fn.mx", "tensor_scale": "0x1p1"})
    with pytest.raises(TypeError, match="codes of a packed matrix are uint8 arrays, got float64"):
        PackedMatrix.read(arrays | {"codes": np.ones((4, 32))}, header)  # type: ignore[dict-item]
    del arrays["scales"]
    with pytest.raises(ValueError, match="was the file cut short"):
        unpack(PackedMatrix.read(arrays, header))
