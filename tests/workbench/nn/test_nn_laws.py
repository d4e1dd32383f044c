"""Laws of the layers, whatever the numbers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nn_cases import normal, runtime

from tiles.formats import TensorFormat
from workbench.nn import CodedTensor, Codes, ReferenceBackend, SeedStream, activation
from workbench.nn.seeds import derived

TWIN = ReferenceBackend()
INT8 = TensorFormat.parse("int8.b32x32")
SR = TensorFormat.parse("int8.b32x32+sr")

extents = st.integers(1, 70)
seeds = st.integers(0, 2**64 - 1)
few = settings(max_examples=12, deadline=None)


def matrix(rows: int, cols: int, seed: int) -> torch.Tensor:
    return normal(rows, cols, seed=seed % 2**32)


def turned(codes: Codes) -> Codes:
    """The same codes as those of the transposed matrix."""
    main = codes.main
    assert main.scales is not None
    return Codes(main=type(main)(codes=main.codes.t(), scales=main.scales.t(), format=main.format))


@given(seed=seeds, uses=st.lists(st.integers(0, 2**40), min_size=2, max_size=8, unique=True))
def test_different_uses_of_a_seed_have_different_keys(seed: int, uses: list[int]) -> None:
    keys = {derived(seed, use) for use in uses}
    assert len(keys) == len(uses)
    assert all(0 <= key < 2**64 for key in keys)


@given(seed=seeds, count=st.integers(0, 100), more=st.integers(1, 20))
def test_a_stream_goes_on_where_it_stood(seed: int, count: int, more: int) -> None:
    whole, rest = SeedStream(seed), SeedStream(seed, count)
    for _ in range(count):
        whole.draw()
    assert [whole.draw() for _ in range(more)] == [rest.draw() for _ in range(more)]
    assert whole.count == rest.count == count + more


@few
@given(rows=extents, cols=extents, seed=seeds)
def test_square_blocks_serve_both_directions(rows: int, cols: int, seed: int) -> None:
    """Codes of a weight are codes of its transpose, so one quantisation a step is enough."""
    x = matrix(rows, cols, seed)
    one, other = TWIN.quantize(x, INT8), TWIN.quantize(x.t().contiguous(), INT8)
    assert torch.equal(turned(one).main.codes, other.main.codes)
    assert torch.equal(turned(one).dequantize(), other.dequantize())


@few
@given(rows=extents, cols=extents, depth=extents, seed=seeds)
def test_a_turned_product_is_the_product_of_the_turned(
    rows: int, cols: int, depth: int, seed: int
) -> None:
    a, b = (
        TWIN.quantize(matrix(rows, depth, seed), INT8),
        TWIN.quantize(matrix(cols, depth, seed + 1), INT8),
    )
    plain = TWIN.product(a, b, dtype=torch.float32)
    both = TWIN.product(turned(a), turned(b), dtype=torch.float32, turn_a=True, turn_b=True)
    assert torch.equal(plain, both)
    assert torch.equal(plain, TWIN.product(b, a, dtype=torch.float32).t())


@few
@given(rows=extents, cols=extents, power=st.integers(-20, 20), seed=seeds)
def test_a_power_of_two_moves_to_the_scales(rows: int, cols: int, power: int, seed: int) -> None:
    """However small gradients are, they do not vanish: scales are fp32, without a floor."""
    x = matrix(rows, cols, seed)
    one, other = (TWIN.quantize(t, SR, seed=seed) for t in (x, x * 2.0**power))
    assert torch.equal(one.main.codes, other.main.codes)
    assert torch.equal(one.dequantize() * 2.0**power, other.dequantize())


@few
@given(rows=extents, cols=extents, seed=seeds)
def test_rounding_again_what_codes_stand_for_changes_nothing(
    rows: int, cols: int, seed: int
) -> None:
    once = TWIN.quantize(matrix(rows, cols, seed), INT8)
    again = TWIN.quantize(once.dequantize(), INT8)
    torch.testing.assert_close(once.dequantize(), again.dequantize(), rtol=1e-6, atol=0)


@settings(max_examples=5, deadline=None)
@given(rows=extents, cols=extents, seed=seeds)
def test_zeros_stay_zeros(rows: int, cols: int, seed: int) -> None:
    """Blocks of zeros have scale 1, not 0 / 0."""
    zero = TWIN.quantize(torch.zeros(rows, cols), SR, seed=seed)
    assert bool((zero.dequantize() == 0).all())
    for op in ("gelu", "silu", "relu"):
        back = TWIN.elementwise(f"{op}-bwd", zero, dy=zero, out=SR, seed=seed)
        assert bool((back.dequantize() == 0).all())
    gamma = torch.ones(cols)
    for norm in ("layernorm", "rmsnorm"):
        beta = torch.zeros(cols) if norm == "layernorm" else None
        found = TWIN.normalize(norm, zero, gamma, beta, epsilon=1e-5, out=INT8)
        assert bool((found.y.dequantize() == 0).all())


@few
@given(lead=st.lists(st.integers(1, 4), min_size=0, max_size=3), cols=extents, seed=seeds)
def test_any_leading_dimensions_give_the_same_codes(lead: list[int], cols: int, seed: int) -> None:
    rows = int(torch.tensor(lead).prod()) if lead else 1
    x = matrix(rows, cols, seed)
    flat = activation(x, "gelu", runtime())
    shaped = activation(x.view(*lead, cols) if lead else x[0], "gelu", runtime())
    assert isinstance(flat, CodedTensor)
    assert isinstance(shaped, CodedTensor)
    assert torch.equal(flat.codes.main.codes, shaped.codes.main.codes)
    assert shaped.shape == (*lead, cols)
