"""Run gradients of norms under Triton's interpreter; prints those beyond the reference's bound."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.dataflow_reference import Inputs, outcome
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import norm_gradient


def differs(op: str, shape: tuple[int, int], dtype: torch.dtype, added: bool) -> list[str]:
    """What lies further off than the kernel may: beyond that the sum is rounded once."""
    rows, cols = shape
    generator = torch.Generator().manual_seed(1)
    x = quantize_tensor(
        1 + 2 * torch.randn(*shape, generator=generator), TensorFormat.parse("int8.b32x32")
    )
    dy, onto = (torch.randn(*shape, generator=generator).to(dtype) for _ in range(2))
    gamma = torch.rand(cols, generator=generator) + 0.5
    values = x.dequantize(torch.float64)
    mean = values.mean(dim=1).float()
    variance = values.var(dim=1, correction=0).float()
    wide = (one.double() for one in (dy, mean, variance, gamma))
    names = ("other", "mean", "variance", "gamma")
    named = dict(zip(names, wide, strict=True))
    exact = outcome(f"{op}-bwd", Inputs(x=values, epsilon=1e-5, **named))  # type: ignore[arg-type]
    total = torch.full(shape, float("nan"), dtype=dtype)
    partials = torch.full(norm_gradient.partial_sums(rows, cols, op), float("nan"))
    more = (onto,) if added else ()
    assert x.scales is not None
    with exact_interpreter():
        norm_gradient.launch(
            *(x.codes, x.scales, dy, mean, variance, gamma, total, partials, *more),
            op=op, epsilon=1e-5, block=32,
        )  # fmt: skip
    wanted = exact.values + onto.double() * added
    unit = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}[dtype]
    found = []
    # In fp32 the kernel's sum with the stream is rounded as well.
    bound = exact.error + unit * (wanted.abs() + exact.error) + 2.0**-23 * wanted.abs()
    if not bool(((total - wanted).abs() <= bound).all()):
        found.append("total")
    for at, (name, (sums, error)) in enumerate(exact.vectors.items()):
        if not bool(((partials.sum(dim=0)[at] - sums).abs() <= error).all()):
            found.append(name)
    return found


if __name__ == "__main__":
    for op in norm_gradient.OPS:
        for shape, dtype in (
            ((64, 128), torch.bfloat16), ((48, 80), torch.float32), ((520, 32), torch.bfloat16),
        ):  # fmt: skip
            for added in (False, True):
                if wrong := differs(op, shape, dtype, added):
                    print(op, shape, dtype, added, wrong)
    print("done")
