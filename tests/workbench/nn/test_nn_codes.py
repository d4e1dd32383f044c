"""The tensor that travels: what it keeps in codes, what it hands out in numbers."""

from typing import ClassVar

import pytest
import torch
from nn_cases import coded, normal

from tiles.formats import TensorFormat
from tiles.recipes import OutlierBlocks
from workbench.nn import CodedTensor, Codes, ReferenceBackend

INT8 = TensorFormat.parse("int8.b32x32")


class Carry(torch.autograd.Function):
    """A layer that passes its codes on, and records what kind of gradient comes back."""

    kinds: ClassVar[list[str]] = []

    @staticmethod
    def forward(ctx: object, x: CodedTensor) -> CodedTensor:
        return CodedTensor(x.codes, x.shape, x.dtype)

    @staticmethod
    def backward(ctx: object, dy: torch.Tensor) -> torch.Tensor:
        Carry.kinds.append(type(dy).__name__)
        plain = dy.dequantized() if isinstance(dy, CodedTensor) else dy
        codes = ReferenceBackend().quantize(plain.reshape(-1, dy.shape[-1]), INT8)
        return CodedTensor(codes, dy.shape, dy.dtype)


def test_it_has_no_memory_of_its_own_size() -> None:
    x = coded(64, 128)
    assert (x.shape, x.dtype) == ((64, 128), torch.bfloat16)
    assert x.codes.stored_bytes == 64 * 128 + 4 * 2 * 4


def test_leading_dimensions_change_and_codes_stay() -> None:
    x = coded(2, 32, 96)
    for y in (x.view(64, 96), x.reshape(-1, 96), x.view(4, 16, 96), x.detach(), x.clone()):
        assert isinstance(y, CodedTensor)
        assert y.codes is x.codes
        torch.testing.assert_close(y.dequantized().view(2, 32, 96), x.dequantized())


@pytest.mark.parametrize(
    "operator",
    [
        torch.nn.functional.gelu,
        lambda x: x + torch.ones(96),
        lambda x: x.transpose(1, 2),
        lambda x: x.view(64, 3, 32),
        lambda x: x.split(32, dim=-1)[1],
        lambda x: torch.nn.functional.softmax(x, dim=-1),
        lambda x: x.float(),
    ],
)
def test_any_other_operator_sees_numbers(operator) -> None:  # type: ignore[no-untyped-def]
    x = coded(2, 32, 96)
    y = operator(x)
    assert not isinstance(y, CodedTensor)
    torch.testing.assert_close(y, operator(x.dequantized()), rtol=0, atol=0)


def test_gradients_arrive_in_codes_and_their_sum_in_numbers() -> None:
    Carry.kinds.clear()
    leaf = coded(32, 32).requires_grad_()
    once = Carry.apply(Carry.apply(leaf))
    once.float().sum().backward()
    assert Carry.kinds == ["Tensor", "CodedTensor"]
    Carry.kinds.clear()
    shared = Carry.apply(coded(32, 32).requires_grad_())
    (Carry.apply(shared).float().sum() + 2 * Carry.apply(shared).float().sum()).backward()
    assert Carry.kinds[-1] == "Tensor"
    assert isinstance(leaf.grad, CodedTensor)


def test_a_sum_of_gradients_is_the_sum() -> None:
    x = normal(32, 32).requires_grad_()

    class Enter(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> CodedTensor:
            return CodedTensor(ReferenceBackend().quantize(x, INT8), x.shape, x.dtype)

        @staticmethod
        def backward(ctx: object, dy: torch.Tensor) -> torch.Tensor:
            return dy.dequantized() if isinstance(dy, CodedTensor) else dy

    y = Enter.apply(x)
    (Carry.apply(y).sum() + Carry.apply(y).sum()).backward()
    torch.testing.assert_close(x.grad, torch.full((32, 32), 2.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.mul_(2),
        lambda x: torch._foreach_mul_([x], 2),
        lambda x: torch.add(torch.ones(32), 1, out=x),
        lambda x: torch.nn.functional.leaky_relu(x, inplace=True),
    ],
)
def test_refuses_to_be_written_to(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError, match="writes to a quantised tensor of shape"):
        write(coded(32, 32))


@pytest.mark.parametrize("part", [lambda x: x[:, :32], lambda x: x.t(), lambda x: x.chunk(2, 1)[1]])
def test_refuses_writes_to_a_part_of_it(part) -> None:  # type: ignore[no-untyped-def]
    """They would not reach the codes, and autograd would take them for writes that did."""
    x = coded(64, 96).requires_grad_()
    y = Carry.apply(x)
    found = part(y)
    torch.testing.assert_close(found, part(x.dequantized()), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        found.mul_(2)
    found.float().sum().backward()
    expected = torch.zeros(64, 96)
    part(expected).fill_(1.0)
    torch.testing.assert_close(x.grad.dequantized().float(), expected)  # type: ignore[union-attr]


def test_reads_by_operators_that_write_elsewhere() -> None:
    x, kept = coded(32, 32), torch.zeros(32, 32, dtype=torch.bfloat16)
    kept.copy_(x)
    kept += x
    torch.testing.assert_close(kept, 2 * x.dequantized(), rtol=0, atol=0)


def test_numbers_are_made_by_the_dequantizer_that_it_was_given() -> None:
    """On a GPU that is a kernel, where the codec takes several passes."""
    asked: list[torch.dtype] = []

    def dequantize(codes: Codes, dtype: torch.dtype) -> torch.Tensor:
        asked.append(dtype)
        return codes.dequantize(dtype)

    x = coded(2, 32, 96)
    y = CodedTensor(x.codes, (2, 32, 96), torch.float16, dequantize)
    for made in (y, y.view(64, 96), y.detach().reshape(-1, 96), y.clone()):
        torch.testing.assert_close(made + 0.0, x.codes.dequantize(torch.float16).view(made.shape))
    assert asked == [torch.float16] * 4


def test_an_assigned_sum_is_a_new_tensor() -> None:
    x = before = coded(32, 32)
    numbers = x.dequantized()
    x += 1
    torch.testing.assert_close(x, numbers + 1, rtol=0, atol=0)
    x = before
    x *= 3
    torch.testing.assert_close(x, numbers * 3, rtol=0, atol=0)
    torch.testing.assert_close(before.dequantized(), numbers, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(32,), (64, 64), (2, 32, 31), ()])
def test_refuses_a_shape_of_another_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not that of codes of 32 x 64"):
        CodedTensor(coded(32, 64).codes, shape, torch.bfloat16)


@pytest.mark.parametrize("shape", [(64, 96), (70, 100), (5, 33)])
def test_blocks_that_fall_back_keep_sixteen_bits(shape: tuple[int, int]) -> None:
    x = normal(*shape, seed=3)
    x[0, 0] = 300.0  # an outlier costs its block all small values in 8 bits
    plain = ReferenceBackend().quantize(x, INT8).dequantize(torch.float64)
    share = 1 / INT8.scale_count(*shape)
    codes = ReferenceBackend().quantize(x, INT8, share=share)
    assert codes.fallback is not None
    values = codes.dequantize(torch.float64)
    block = (slice(0, 32), slice(0, 32))
    before, after = ((v - x.double())[block].abs().max() for v in (plain, values))
    # Two steps of eight bits: the rest of a block is half a step of 300 / 127 at most.
    assert before > 0.5
    assert after <= 300 / 127 / 2 / 127 / 2 * 1.0001
    outside = torch.ones(shape, dtype=torch.bool)
    outside[block] = False
    torch.testing.assert_close(values[outside], plain[outside], rtol=0, atol=0)


def test_the_share_of_blocks_is_rounded_up() -> None:
    codes = ReferenceBackend().quantize(normal(96, 96), INT8, share=0.15)
    assert codes.fallback is not None
    assert int(codes.fallback.offsets[-1]) == 2
    assert OutlierBlocks(share=0.15).share == 0.15
    assert isinstance(codes, Codes)
