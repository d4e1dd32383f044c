"""Codes of a kernel beside those of the twin: as near each other as the kernel's bound has them."""

from dataclasses import replace

import pytest
import torch

from tiles.kernels.dataflow_reference import Inputs, outcome
from workbench.nn import Codes

__all__ = ["assert_near", "either_sign", "moved"]


def moved(codes: Codes, device: str) -> Codes:
    assert codes.main.scales is not None
    main = replace(
        codes.main, codes=codes.main.codes.to(device), scales=codes.main.scales.to(device)
    )
    return Codes(main=main)


def either_sign(op: str, x: Codes, dy: torch.Tensor) -> torch.Tensor:
    """Where a kernel's value may lie on the other side of zero: no further away than its error.

    GELU's gradient is zero at x = -0.7518 too, where the kernels' gate may be off by 2.6e-4.

    Args:
        op: an activation's backward pass, ``gelu-bwd``.
        dy: the gradient's numbers, (rows, cols).
    """
    exact = outcome(op, Inputs(x=x.dequantize(torch.float64), other=dy.double()))
    found: torch.Tensor = exact.values.abs() <= exact.error
    return found


def assert_near(
    found: Codes,
    expected: Codes,
    *,
    steps: int = 1,
    share: float = 2e-2,
    either: torch.Tensor | None = None,
) -> None:
    """Scales within fp32 rounding (GELU's gate: 2e-3), codes a step apart for few elements.

    Stochastic rounding adds its bits to a magnitude: those that lift a value just below zero to
    code -1 lift one just above it to 1, two steps apart.

    Args:
        either: elements that may have either sign, from :func:`either_sign`; rounding to nearest
            has no need of them.
    """
    here = moved(found, "cpu").main
    assert here.scales is not None
    assert expected.main.scales is not None
    torch.testing.assert_close(here.scales, expected.main.scales, rtol=2e-3, atol=0)
    mine, wanted = here.codes.int(), expected.main.codes.int()
    apart = (mine - wanted).abs()
    far = apart > steps
    if either is not None:
        far &= ~(either & (mine.abs() <= 1) & (wanted.abs() <= 1))
    for row, column in far.nonzero().tolist()[:4]:
        wrong, right = int(mine[row, column]), int(wanted[row, column])
        pytest.fail(f"code {wrong} at {row}, {column}, wanted {right}")
    assert float((apart > 0).double().mean()) <= share
