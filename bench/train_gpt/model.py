"""The GPT that is trained, the example's: the same initial parameters under every recipe."""

from dataclasses import asdict

import torch

from bench.train_gpt.settings import Size
from examples import train_int8_gpt
from examples.train_int8_gpt import Gpt

__all__ = ["PLAIN", "build"]

#: The recipe that converts nothing: parameters, residual stream and products in fp32.
PLAIN = "fp32"


def build(size: Size, recipe: str, seed: int) -> Gpt:
    """A model on the CPU, its layers following a recipe.

    Raises:
        ValueError: the recipe does not train here.
    """
    extents = train_int8_gpt.Size(**asdict(size), steps=0, rate=0.0)  # it does not train here
    if recipe == PLAIN:
        torch.manual_seed(seed)
        return Gpt(extents, torch.float32)
    return train_int8_gpt.build(extents, recipe, seed, "cpu")
