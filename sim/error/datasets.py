"""Test data: matrices whose values follow a known distribution of unit variance."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DATA_KINDS",
    "DEGREES_OF_FREEDOM",
    "OUTLIER_GAIN",
    "OUTLIER_SHARE",
    "SIDES",
    "Side",
    "check_kind",
    "outlier_channels",
    "sample",
]

F32 = NDArray[np.float32]
Side = Literal["activation", "weight"]

#: ``outlier`` is normal data with a few channels of the activations enlarged.
DATA_KINDS = ("normal", "laplace", "student-t", "outlier")
SIDES = ("activation", "weight")
#: Of Student's t: five leave a fourth moment and tails like those of trained layers.
DEGREES_OF_FREEDOM = 5
#: Outlier data: this share of the channels, and how much larger they are.  LLM.int8()
#: (arXiv 2208.07339) finds features up to 20 times as large in about 0.1 % of the dimensions, and
#: later measurements tens of times in up to 1 %.
OUTLIER_SHARE = 6 / 1024
OUTLIER_GAIN = 30.0
_SEED = 20_240_229
#: Outlier data are the normal data with channels enlarged, so that the two compare in pairs.
_STREAMS = {"normal": 0, "outlier": 0, "laplace": 1, "student-t": 2}


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of data.

    Raises:
        ValueError: it is none of ``DATA_KINDS``.
    """
    if kind not in DATA_KINDS:
        raise ValueError(f"data {kind!r}: choose one of {', '.join(DATA_KINDS)}")


def outlier_channels(cols: int) -> int:
    """Number of enlarged channels among ``cols``; at least one."""
    return max(1, round(cols * OUTLIER_SHARE))


def sample(
    kind: str, rows: int, cols: int, *, seed: int = 0, side: Side = "activation"
) -> NDArray[np.float32]:
    """A matrix of independent values of mean 0 and variance 1 (outlier channels: 900).

    ``laplace`` has density ``exp(-|x| sqrt 2) / sqrt 2``; ``student-t`` has 5 degrees of freedom
    and is divided by its standard deviation.  ``outlier`` enlarges six of 1024 channels 30 times;
    weights of such layers show no outliers, so theirs are normal.

    Args:
        kind: one of ``DATA_KINDS``.
        seed: another one gives independent data.
        side: activations and weights of one seed are independent.
    Returns:
        (rows, cols) float32, the same in every run under one version of NumPy, whatever else was
        drawn.
    Raises:
        ValueError: unknown kind or side, an empty shape, a negative seed.
    """
    check_kind(kind)
    if side not in SIDES:
        raise ValueError(f"side {side!r}: choose one of {', '.join(SIDES)}")
    if rows < 1 or cols < 1:
        raise ValueError(f"data of shape {rows} x {cols}: both extents must be at least 1")
    if seed < 0:
        raise ValueError(f"seed {seed}: it must not be negative")
    random = np.random.default_rng((_SEED, SIDES.index(side), _STREAMS[kind], seed))
    shape = (rows, cols)
    if kind == "laplace":
        x = random.standard_exponential(shape, dtype=np.float32)
        x *= np.float32(0.5**0.5)
        return np.where(_coins(random, shape), x, -x)
    x = random.standard_normal(shape, dtype=np.float32)
    if kind == "student-t":
        half = DEGREES_OF_FREEDOM / 2
        # t = z / sqrt(chi2 / n) with chi2 = 2 gamma(n / 2), and variance n / (n - 2).
        spread = random.standard_gamma(half, shape, dtype=np.float32)
        spread /= np.float32(half - 1)
        x /= np.sqrt(spread, out=spread)
    if kind == "outlier" and side == "activation":
        channels = random.choice(cols, outlier_channels(cols), replace=False)
        x[:, channels] *= np.float32(OUTLIER_GAIN)
    return x


def _coins(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    count = shape[0] * shape[1]
    packed = np.frombuffer(random.bytes(-(-count // 8)), np.uint8)
    return np.unpackbits(packed, count=count).view(np.bool_).reshape(shape)
