"""What the tests of the training layers share."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from workbench.nn import CodedTensor, Codes, Runtime, training_runtime

__all__ = ["PlainSgd", "coded", "normal", "runtime", "spread_scales"]


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


class PlainSgd:
    """Steps parameters in place; torch's own optimisers load its compiler first, for seconds."""

    def __init__(self, model: torch.nn.Module, rate: float = 0.1) -> None:
        self.model, self.rate, self.steps = model, rate, 0

    def zero_grad(self) -> None:
        for p in self.model.parameters():
            p.grad = None

    def step(self) -> None:
        self.steps += 1
        with torch.no_grad():
            for p in self.model.parameters():
                if p.grad is not None:
                    p.sub_(self.rate * p.grad)
