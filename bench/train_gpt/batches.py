"""Which bytes a step reads: drawn from the seed alone, so that every recipe reads the same."""

import numpy as np
import numpy.typing as npt

from bench.train_gpt.settings import Settings

__all__ = ["held_out_windows", "starts_of"]

Bytes = npt.NDArray[np.uint8]


def starts_of(length: int, settings: Settings, seed: int) -> npt.NDArray[np.int64]:
    """(steps, batch): where each sequence of each step begins in a text of so many bytes.

    Raises:
        ValueError: the text is shorter than a sequence.
    """
    size = settings.size
    if length <= size.tokens:
        raise ValueError(f"text of {length} bytes: sequences have {size.tokens}: take more text")
    drawn = np.random.default_rng([0, seed])
    return drawn.integers(length - size.tokens, size=(settings.steps, size.batch))


def held_out_windows(held_out: Bytes, settings: Settings) -> Bytes:
    """(windows, tokens + 1): what every run is judged by.

    Raises:
        ValueError: the text is shorter than a sequence.
    """
    tokens = settings.size.tokens
    if len(held_out) <= tokens:
        raise ValueError(
            f"held-out text of {len(held_out)} bytes: sequences have {tokens}: take more text"
        )
    starts = np.random.default_rng([1]).integers(len(held_out) - tokens, size=settings.windows)
    windows: Bytes = held_out[starts[:, None] + np.arange(tokens + 1)]
    return windows
