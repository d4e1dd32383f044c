"""The torch codec against the NumPy reference, bit for bit."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch_codec_cases as cases
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tiles.formats import (
    ElementFormat,
    FloatElement,
    IntElement,
    PositElement,
    Rounding,
    Specials,
    TensorFormat,
    dequantize,
    quantize,
    random_bits,
    torch_constants,
    torch_random,
)
from tiles.formats.packing import pack_codes, swizzle_scales, unpack_codes
from tiles.formats.torch_codec import (
    WORKSPACE_BYTES,
    QuantizedTensor,
    empty_scales,
    quantize_tensor,
)

BF16 = cases.all_bf16()


def reference(x: np.ndarray, fmt: TensorFormat, seed: int = 0) -> Any:
    with np.errstate(all="ignore"):
        return quantize(x, fmt, seed=seed)


def compare(name: str, x: np.ndarray, dtype: torch.dtype, chunks: tuple[int | None, ...]) -> None:
    fmt = TensorFormat.parse(name)
    tensor = cases.as_torch(x, dtype)
    wanted = reference(tensor.float().numpy(), fmt, seed=9)
    for chunk in chunks:
        got = quantize_tensor(tensor, fmt, seed=9, chunk_elements=chunk)
        cases.assert_same(got, wanted, (x.shape, dtype, chunk))


@pytest.mark.parametrize("name", [*cases.UNSCALED, *cases.OVERFLOWING])
def test_every_bf16_number_in_every_element_and_rounding(name: str) -> None:
    fmt = TensorFormat.parse(name)
    got = quantize_tensor(cases.as_torch(BF16, torch.bfloat16), fmt, seed=3)
    wanted = reference(BF16, fmt, seed=3)
    cases.assert_same(got, wanted)
    with np.errstate(invalid="ignore"):
        values = dequantize(wanted)
    np.testing.assert_array_equal(got.dequantize(torch.float64).numpy(), values)


@pytest.mark.parametrize("name", cases.UNSCALED)
def test_random_fp32_words_in_every_element_and_rounding(name: str) -> None:
    x = cases.random_words(30_000, seed=1).reshape(3, -1)
    compare(name, x, torch.float32, (None, 7001))


@pytest.mark.parametrize("name", cases.OVERFLOWING)
def test_numbers_overflow_where_the_reference_has_it(name: str) -> None:
    fmt = TensorFormat.parse(name)
    assert isinstance(fmt.element, FloatElement)
    gap = 2.0 ** (fmt.element.max_exponent - fmt.element.mantissa_bits)
    with np.errstate(over="ignore"):
        edges = fmt.element.max + gap * np.arange(0, 2.25, 0.125)
        x = np.concatenate([edges.astype(np.float32), np.float32([np.inf, 0, 1])])
        x = np.concatenate([x, *(np.nextafter(x, np.float32(to)) for to in (np.inf, 0))])
    x = np.concatenate([x, -x])
    codes = reference(x.reshape(2, -1), fmt, seed=9).codes
    if fmt.element.bits < 32 and fmt.rounding is not Rounding.TOWARD_ZERO:
        highest = codes & ((1 << (fmt.element.bits - 1)) - 1) if fmt.element.signed else codes
        assert (highest == fmt.element.max_code).any()
    compare(name, x.reshape(2, -1), torch.float32, (None,))


@pytest.mark.parametrize("name", cases.SCALED)
def test_every_scaling_and_rule(name: str) -> None:
    for shape, chunks in (
        ((1, 1), (None, 1)),
        ((7, 300), (None, 290, 1000)),
        ((64, 256), (None,)),
        ((37, 129), (None, 700)),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            compare(name, cases.nasty(*shape), dtype, chunks)
            if dtype == torch.float32:
                compare(name, cases.nasty(*shape) * np.float32(1e-36), dtype, (None,))
    compare(name, np.clip(cases.nasty(9, 70), -6e4, 6e4), torch.float16, (None,))


@pytest.mark.parametrize("name", cases.SCALED_AND_NAMED)
def test_every_bf16_number_under_every_scaling(name: str) -> None:
    for x in cases.bf16_matrices():
        compare(name, x, torch.bfloat16, (None,))


def test_every_format_that_a_recipe_names_is_compared() -> None:
    compared = {*cases.UNSCALED, *cases.SCALED_AND_NAMED}
    assert set(cases.recipe_formats()) <= {str(TensorFormat.parse(name)) for name in compared}


@pytest.mark.parametrize("name", cases.SEARCHED)
def test_scales_of_least_error(name: str) -> None:
    for shape, chunks in (((1, 1), (None,)), ((9, 70), (None, 50)), ((6, 64), (None, 129))):
        compare(name, cases.nasty(*shape), torch.float32, chunks)
    compare(name, cases.nasty(7, 65), torch.bfloat16, (None,))


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(cases.SCALED),
    rows=st.integers(1, 12),
    cols=st.integers(1, 80),
    chunk=st.none() | st.integers(1, 300),
    seed=st.integers(0, 2**64 - 1),
    exponent=st.integers(-44, 37),
)
def test_any_shape_piece_and_seed(
    name: str, rows: int, cols: int, chunk: int | None, seed: int, exponent: int
) -> None:
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        x = (rng.standard_normal((rows, cols)) * 10.0**exponent).astype(np.float32)
    fmt = TensorFormat.parse(name)
    got = quantize_tensor(cases.as_torch(x), fmt, seed=seed, chunk_elements=chunk)
    cases.assert_same(got, reference(x, fmt, seed), (rows, cols, chunk, seed))


@pytest.mark.parametrize("name", [*cases.SCALED, *cases.SEARCHED])
def test_dequantizes_as_the_reference(name: str) -> None:
    fmt = TensorFormat.parse(name)
    x = cases.nasty(7, 70)
    got = quantize_tensor(cases.as_torch(x), fmt)
    with np.errstate(all="ignore"):
        wanted = dequantize(quantize(x, fmt))
        narrow = wanted.astype(np.float32)
    for chunk in (None, 50):
        wide = got.dequantize(torch.float64, chunk_elements=chunk)
        np.testing.assert_array_equal(wide.numpy(), wanted)
        np.testing.assert_array_equal(got.dequantize(chunk_elements=chunk).numpy(), narrow)


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, 2**40), count=st.integers(1, 300), seed=st.integers(0, 2**64 - 1))
def test_random_bits_are_those_of_numpy(first: int, count: int, seed: int) -> None:
    got = torch_random.random_bits(first, count, seed, torch.device("cpu"))
    np.testing.assert_array_equal(got.numpy(), random_bits(first, count, seed))


@pytest.mark.parametrize("name", ["e4m3fn.b1x32", "nvfp4", "int8.b32x32", "e4m3fn.col"])
def test_strides_of_the_input_do_not_matter(name: str) -> None:
    fmt = TensorFormat.parse(name)
    x = cases.as_torch(cases.nasty(70, 40))
    for view in (x.t(), x[::2, 3:37]):
        cases.assert_same(quantize_tensor(view, fmt), reference(view.numpy().copy(), fmt))
        cases.assert_same(
            quantize_tensor(view, fmt, chunk_elements=100), reference(view.numpy().copy(), fmt)
        )


@pytest.mark.parametrize("name", ["int8.row", "e4m3fn.mx", "bf16", "nvfp4+sr"])
def test_a_view_that_carries_its_sign_beside_it_is_read_with_it(name: str) -> None:
    fmt, x = TensorFormat.parse(name), cases.as_torch(cases.nasty(5, 64))
    cases.assert_same(quantize_tensor(x._neg_view(), fmt), reference((-x).numpy(), fmt))


class Peak(TorchDispatchMode):
    """The most bytes of storage that operations of torch had allocated at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._seen or not size:
            return
        self._seen.add(address)
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.live -= size


@pytest.mark.parametrize("shape", [(96, 128), (1, 12288)], ids=str)
def test_temporaries_do_not_grow_with_the_matrix(shape: tuple[int, int]) -> None:
    x = cases.as_torch(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    for name in (*cases.SCALED[::3], "int4.g32+mse", "bf16+sr", "posit8es1+sr", "nvfp4+sr", "tf32"):
        check_workspace(x, TensorFormat.parse(name), chunk=4096)


def check_workspace(x: torch.Tensor, fmt: TensorFormat, chunk: int) -> None:
    quantize_tensor(x, fmt, chunk_elements=chunk)  # makes the tables
    with Peak() as peak:
        quantized = quantize_tensor(x, fmt, chunk_elements=chunk)
    parts = (quantized.codes, quantized.scales, quantized.zero_points, quantized.tensor_scale)
    result = sum(part.untyped_storage().nbytes() for part in parts if part is not None)
    wide = 1 if fmt.scaling is None or fmt.scaling.cols is None else fmt.scaling.cols
    elements = max(chunk, -(-x.shape[1] // wide))
    assert result < peak.most <= result + WORKSPACE_BYTES * elements, fmt
    with Peak() as peak:
        values = quantized.dequantize(chunk_elements=chunk)
    assert peak.most <= values.nbytes + WORKSPACE_BYTES * elements, fmt


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    "bf16 e4m3fn.mx e2m1fn.mx+rceil nvfp4 uint4.g32 int8.b32x32 int8.row+sr nf4.g64 posit8es1 "
    "e3m4fn.row+away e4m3fn.mx+nosat".split(),
)
def test_compiled_equals_the_reference(name: str) -> None:
    fmt = TensorFormat.parse(name)

    def round_trip(x: torch.Tensor) -> tuple[QuantizedTensor, torch.Tensor]:
        quantized = quantize_tensor(x, fmt, seed=5)
        return quantized, quantized.dequantize()

    torch._dynamo.reset()
    compiled = torch.compile(round_trip, fullgraph=True, dynamic=False)
    x = cases.nasty(37, 129)
    got, values = compiled(cases.as_torch(x))
    wanted = reference(x, fmt, seed=5)
    cases.assert_same(got, wanted)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(values.numpy(), dequantize(wanted).astype(np.float32))
    # The compiler's flags must not have set the process to flush subnormals.
    assert torch.tensor([1e-40]).mul(0.5).item() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["e3m2fn.mx", "int8.b32x32"])
def test_one_graph_quantizes_packs_and_comes_back(name: str) -> None:
    fmt = TensorFormat.parse(name)
    assert fmt.scaling is not None
    bits = fmt.element.bits

    def round_trip(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        quantized = quantize_tensor(x, fmt)
        packed = pack_codes(quantized.bits, bits)
        scales = swizzle_scales(quantized.scale_bits.view(torch.uint8))
        return packed, unpack_codes(packed, bits, x.shape[1]), scales, quantized.dequantize()

    torch._dynamo.reset()
    x = cases.as_torch(cases.nasty(37, 131))
    traced = torch.compile(round_trip, fullgraph=True, dynamic=False, backend="eager")
    for got, wanted in zip(traced(x), round_trip(x), strict=True):
        np.testing.assert_array_equal(got.numpy(), wanted.numpy())


def test_packing_for_a_device_waits_for_no_look_at_the_codes() -> None:
    codes = torch.zeros(4, 64, dtype=torch.uint8, device="meta")
    assert pack_codes(codes, 4).shape == (4, 32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["int8.row+mse", "e4m3fn.row+p99"])
def test_searches_for_scales_run_uncompiled(name: str) -> None:
    fmt, x = TensorFormat.parse(name), cases.nasty(5, 40)
    torch._dynamo.reset()
    got = torch.compile(lambda x: quantize_tensor(x, fmt))(cases.as_torch(x))
    cases.assert_same(got, reference(x, fmt))


def test_scales_of_rows_of_blocks_are_padded_to_four_rows() -> None:
    scales = quantize_tensor(torch.ones(6, 300), TensorFormat.parse("e4m3fn.b1x128")).scales
    assert scales is not None
    assert scales.shape == (6, 3)
    assert scales.stride() == (1, 8)
    fmt = TensorFormat.parse("e4m3fn.b1x128")
    assert fmt.scaling is not None
    assert empty_scales(6, 300, fmt.scaling, "cpu").stride() == (1, 8)


def test_refuses_what_it_cannot_quantize() -> None:
    fmt = TensorFormat.parse("int8.row+sr")
    with pytest.raises(ValueError, match=r"non-empty matrix, got shape \(3,\)"):
        quantize_tensor(torch.ones(3), fmt)
    with pytest.raises(TypeError, match=r"bf16, fp16 or fp32, got torch\.int32"):
        quantize_tensor(torch.ones(3, 3, dtype=torch.int32), fmt)
    with pytest.raises(TypeError, match="takes a tensor, got ndarray: make it one"):
        quantize_tensor(np.ones((3, 3), np.float32), fmt)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"takes a TensorFormat, got 'int8\.row': parse it first"):
        quantize_tensor(torch.ones(3, 3), "int8.row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got the layout torch.sparse_coo: call to_dense\(\)"):
        quantize_tensor(torch.ones(3, 3).to_sparse(), fmt)
    with pytest.raises(ValueError, match="chunk_elements 0: at least 1"):
        quantize_tensor(torch.ones(3, 3), fmt, chunk_elements=0)
    with pytest.raises(ValueError, match="seed -1: a 64-bit"):
        quantize_tensor(torch.ones(3, 3), fmt, seed=-1)
    for options in ({"seed": 1.5}, {"seed": "1"}, {"chunk_elements": 1.5}):
        (name,) = options
        with pytest.raises(TypeError, match=f"{name} .*integer"):
            quantize_tensor(torch.ones(3, 3), fmt, **options)
    with pytest.raises(TypeError, match=r"float32 or float64, not torch\.bfloat16"):
        quantize_tensor(torch.ones(3, 3), fmt).dequantize(torch.bfloat16)
    with pytest.raises(ValueError, match="bf16 has no scales"):
        _ = quantize_tensor(torch.ones(3, 3), TensorFormat.parse("bf16")).scale_bits


#: Records that carry a catalogue name, but not that format's facts.
NAMESAKES = (
    FloatElement(name="e5m2", bits=8, precision=3, bias=15, specials=Specials.FN),
    FloatElement(name="e4m3fn", bits=8, precision=4, bias=9, specials=Specials.FN),
    FloatElement(name="fp16", bits=16, precision=9, bias=63, specials=Specials.IEEE),
    FloatElement(name="int8", bits=8, precision=4, bias=7, specials=Specials.FN),
    IntElement(name="e4m3fn", bits=8, signed=False),
    PositElement(name="bf16", bits=16, es=1),
)


@pytest.mark.parametrize("namesake", NAMESAKES, ids=repr)
def test_a_record_is_known_by_its_facts_and_not_by_its_name(namesake: ElementFormat) -> None:
    fmt = TensorFormat(element=namesake)
    wanted = reference(BF16, fmt)
    got = quantize_tensor(cases.as_torch(BF16), fmt)
    cases.assert_same(got, wanted)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(got.dequantize(torch.float64).numpy(), dequantize(wanted))


def test_tables_do_not_pile_up_with_the_shapes_of_calls() -> None:
    fmt = TensorFormat.parse("e4m3fn.b3x5")
    held = len(vars(torch_constants._HELD))
    for rows in range(1, 30):
        quantize_tensor(torch.ones(rows, rows + 70), fmt).dequantize()
    assert len(vars(torch_constants._HELD)) <= held + 1  # e4m3fn's own values


def test_leaves_its_input_as_it_was() -> None:
    x = cases.as_torch(cases.nasty(64, 64))
    before = x.clone()
    quantize_tensor(x, TensorFormat.parse("int8.b32x32"))
    np.testing.assert_array_equal(x.numpy(), before.numpy())
