"""The loss of a model that knows pairs of bytes alone, to compare trained ones with."""

import numpy as np
import numpy.typing as npt

from bench.train_gpt.settings import VOCABULARY

__all__ = ["bigram_loss"]

Bytes = npt.NDArray[np.uint8]


def bigram_loss(train: Bytes, windows: Bytes) -> float:
    """Mean negative log likelihood of each byte behind the one before it, in nats.

    Args:
        train: whose pairs are counted, each once more than it occurs (Laplace's rule).
        windows: (count, tokens + 1); the first byte of each is given.
    """
    pairs = train[:-1].astype(np.int64) * VOCABULARY + train[1:]
    counts = np.bincount(pairs, minlength=VOCABULARY**2).reshape(VOCABULARY, VOCABULARY) + 1.0
    surprise = np.log(counts.sum(1, keepdims=True)) - np.log(counts)
    return float(surprise[windows[:, :-1], windows[:, 1:]].mean())
