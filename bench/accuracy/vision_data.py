"""Handwritten digits that scikit-learn carries, as they are, under noise, and to be freed of it."""

from functools import cache

import torch

from bench.accuracy.corpus import origin
from bench.accuracy.training import Split, split_rows

__all__ = ["digits", "noisy_digits", "noisy_pixels"]

#: Standard deviation of the noise, of pixels between 0 and 1.
NOISE = 0.3


@cache
def digits() -> Split:
    """1797 images (1, 8, 8) in [0, 1] and their digits; half of them are judged."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images / 16, dtype=torch.float32).unsqueeze(1)
    return split_rows((images,), torch.tensor(found.target), origin("sklearn") + ": digits")


def _noisy(images: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return images + NOISE * torch.randn(images.shape, generator=generator)


@cache
def noisy_digits() -> Split:
    """Digits under noise that leaves room for errors."""
    clean = digits()
    return Split(
        inputs=(_noisy(clean.inputs[0], 1),),
        target=clean.target,
        test_inputs=(_noisy(clean.test_inputs[0], 2),),
        test_target=clean.test_target,
        source=f"{clean.source}, with noise",
    )


@cache
def noisy_pixels() -> Split:
    """Digits under noise; the clean pixels are asked for."""
    clean, noisy = digits(), noisy_digits()
    return Split(
        inputs=noisy.inputs,
        target=clean.inputs[0],
        test_inputs=noisy.test_inputs,
        test_target=clean.test_inputs[0],
        source=noisy.source,
    )
