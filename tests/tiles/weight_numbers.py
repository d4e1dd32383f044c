"""Activations and weights of small integers and powers of two, whose products are exact."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch

from tiles.formats import element as element_of
from tiles.formats import pack_codes
from tiles.formats.torch_encode import decode
from tiles.kernels.triton.weight_layout import PackedWeight, pack

#: Half an ulp of each output, relative; fp32 sums of promoted parts round a little.
ROUNDING = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Operands of a weight-only product."""

    x: torch.Tensor
    packed: PackedWeight
    weight: torch.Tensor  #: what the codes stand for, in float64

    def check(self, got: np.ndarray, out: str) -> None:
        """Fails where a product is off by more than its output rounds."""
        if out == "bf16":
            got = got.view(ml_dtypes.bfloat16)
        wanted = (self.x.double() @ self.weight.T).numpy()
        size = (self.x.double().abs() @ self.weight.abs().T).numpy()
        error = np.abs(got.astype(np.float64) - wanted)
        bad = ~(error <= ROUNDING[out] * np.abs(wanted) + ROUNDING["fp32"] * size)
        assert not bad.any(), (np.argwhere(bad)[:5], got[bad][:5], wanted[bad][:5])


def scales(rows: int, groups: int, kind: str, rng: np.random.Generator) -> torch.Tensor:
    """Powers of two in a scale format, no two neighbours alike."""
    exponents = torch.from_numpy(rng.integers(-3, 4, (rows, groups)))
    if kind == "e8m0fnu":
        return (exponents + 127).to(torch.uint8)
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "e4m3fn": torch.float8_e4m3fn}
    return torch.exp2(exponents.float()).to(dtypes.get(kind, torch.float32))


def spread(values: torch.Tensor, k: int, group: int) -> torch.Tensor:
    return values.double().repeat_interleave(group or k, dim=1)[:, :k]


def drawn(
    shape: tuple[int, int, int],
    weight: str,
    kind: str,
    group: int,
    activation: torch.dtype,
    *,
    zeros: int,
) -> Numbers:
    """Operands with scales of a kind, one for each group of columns, or for a row.

    Args:
        zeros: zero points of unsigned weights lie below it.
    """
    m, n, k = shape
    rng = np.random.default_rng(m * n + k)
    x = torch.from_numpy(rng.integers(-7, 8, (m, k))).to(activation)
    fmt = element_of(weight)
    codes = torch.from_numpy(rng.integers(0, 1 << fmt.bits, (n, k)).astype(np.uint8))
    if weight == "e4m3fn":
        codes[(codes & 127) == 127] = 8
    found = scales(n, -(-k // group) if group else 1, kind, rng)
    number = torch.exp2(found.double() - 127) if kind == "e8m0fnu" else found
    value = decode(codes, fmt).double()
    zero = None
    if weight == "uint4":
        zero = torch.from_numpy(rng.integers(0, zeros, tuple(found.shape)).astype(np.uint8))
        value = value - spread(zero, k, group)
    value = value * spread(number, k, group)
    packed = pack(
        pack_codes(codes, fmt.bits),
        found,
        element=weight,
        columns=k,
        group=group,
        zero_points=zero,
        tensor_scale=torch.tensor(0.5),
    )
    return Numbers(x=x, packed=packed, weight=value * 0.5)
