"""What the tests of the training layers share."""

from collections.abc import Iterator

import pytest
import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from workbench.nn import CodedTensor, Codes, Runtime, training_runtime

__all__ = ["coded", "normal", "one_thread", "runtime", "spread_scales"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: on a busy machine a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def runtime(recipe: str = "jetfire", **options: object) -> Runtime:
    return training_runtime(recipe, **options)  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def coded(
    *shape: int, seed: int = 0, fmt: str = "int8.b32x32", dtype: torch.dtype = torch.bfloat16
) -> CodedTensor:
    """Random normal values in codes."""
    x = normal(*shape, seed=seed)
    main = quantize_tensor(x.view(-1, shape[-1]), TensorFormat.parse(fmt))
    return CodedTensor(Codes(main=main), shape, dtype)


def spread_scales(codes: Codes) -> torch.Tensor:
    """(rows, cols) float64: the step of every element of INT8 codes."""
    scaling = codes.format.scaling
    assert scaling is not None
    assert codes.main.scales is not None
    rows, cols = codes.shape
    high, wide = scaling.rows or rows, scaling.cols or cols
    scales = codes.main.scales.double()
    return scales.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :cols]
