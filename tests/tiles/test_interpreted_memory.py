"""The interpreter's memory check finds what leaves an argument, and nothing else."""

from collections.abc import Callable, Iterator

import pytest
import torch
import triton.language as tl
from interpreted_memory import checked
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import InterpretedFunction
from triton.tools.tensor_descriptor import TensorDescriptor


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    with checked():
        yield


def _run(kernel: Callable[..., None], *arguments: object, grid: int = 1) -> None:
    InterpretedFunction(kernel).run(*arguments, grid=(grid,), warmup=False)


def copy_words(source, target, first, reach, SIZE: tl.constexpr):
    at = first + tl.arange(0, SIZE)
    wanted = tl.arange(0, SIZE) < reach
    tl.store(target + tl.arange(0, SIZE), tl.load(source + at, mask=wanted, other=-1), mask=wanted)


def store_words(target, first, SIZE: tl.constexpr):
    tl.store(target + first + tl.arange(0, SIZE), tl.arange(0, SIZE))


def store_rows(target, pitch, ROWS: tl.constexpr, COLS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * pitch + tl.arange(0, COLS)[None, :]
    tl.store(target + at, at)


def count(target, first):
    tl.atomic_add(target + first, 1)


def exchange(target, first):
    tl.atomic_cas(target + first, 0, 1)


def stray(source, target, distance):
    tl.store(target, tl.load(source + distance))


def copy_box(source, target, row):
    target.store([0, 0], source.load([row, 0]))


def _words(count: int) -> torch.Tensor:
    """A view in the middle of a larger storage."""
    return torch.arange(count + 64, dtype=torch.int32)[32 : 32 + count]


def test_accesses_within_are_made() -> None:
    source, target = _words(8), _words(8).clone()
    _run(copy_words, source, target, 0, 8, 8)
    assert torch.equal(source, target)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (1, r"copy_words loads 4 B 0 B behind the end of argument source \(32 B\).* 1 elements"),
        (5, r"copy_words loads 4 B 0 B behind the end of argument source .* 5 elements"),
        (-3, r"copy_words loads 4 B 12 B before the start of argument source .* 3 elements"),
        (1 << 26, r"copy_words loads 4 B 268435424 B behind the end of argument source"),
    ],
)
def test_loads_outside_a_view_are_refused_inside_its_storage_too(first: int, message: str) -> None:
    with pytest.raises(InterpreterError, match=message):
        _run(copy_words, _words(8), _words(8), first, 8, 8)


@pytest.mark.parametrize("first", [1, -1])
def test_stores_outside_are_refused_before_they_are_made(first: int) -> None:
    storage = torch.zeros(64, dtype=torch.int32)
    with pytest.raises(InterpreterError, match=r"store_words stores 4 B .* argument target"):
        _run(store_words, storage[16:24], first, 8)
    assert not storage.any()


def test_wild_addresses_that_are_masked_off_are_accepted() -> None:
    target = _words(8).clone()
    _run(copy_words, _words(2), target, 0, 2, 8)
    assert target[:2].tolist() == [32, 33]
    _run(copy_words, _words(2), target, -(1 << 30), 0, 8)


def test_gaps_between_rows_belong_to_nobody() -> None:
    storage = torch.full((4, 8), -1, dtype=torch.int32)
    _run(store_rows, storage[:, :4], 8, 4, 4)
    assert (storage[:, :4] >= 0).all()
    assert (storage[:, 4:] == -1).all()
    message = "store_rows stores 4 B at byte 16, between the rows of argument target"
    with pytest.raises(InterpreterError, match=message):
        _run(store_rows, storage[:, :4], 8, 4, 8)


@pytest.mark.parametrize("kernel", [count, exchange])
def test_atomic_updates_are_checked(kernel: Callable[..., None]) -> None:
    target = torch.zeros(4, dtype=torch.int32)
    _run(kernel, target, 3)
    assert target.tolist() == [0, 0, 0, 1]
    with pytest.raises(InterpreterError, match=f"{kernel.__name__} updates 4 B 0 B behind the end"):
        _run(kernel, target, 4)


def test_a_pointer_that_strays_into_another_argument_is_refused() -> None:
    storage = torch.arange(16, dtype=torch.int32)
    with pytest.raises(InterpreterError, match=r"stray loads 4 B 16 B behind .* argument source"):
        _run(stray, storage[:4], storage[8:], 8)


def test_descriptors_mask_by_their_own_extents() -> None:
    source, target = torch.ones(6, 8), torch.full((4, 8), torch.nan)
    made = [TensorDescriptor.from_tensor(tensor, [4, 8]) for tensor in (source, target)]
    _run(copy_box, *made, 4)
    assert target.tolist() == [[1.0] * 8] * 2 + [[0.0] * 8] * 2


def test_a_descriptor_larger_than_its_tensor_is_found() -> None:
    source, target = torch.ones(8, 8)[:6], torch.zeros(4, 8)
    lying = TensorDescriptor(source, [8, 8], [8, 1], [4, 8])
    with pytest.raises(InterpreterError, match=r"copy_box loads 4 B 0 B behind .* argument source"):
        _run(copy_box, lying, TensorDescriptor.from_tensor(target, [4, 8]), 4)
