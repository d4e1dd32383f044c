"""The named recipes."""

import difflib

from tiles.formats import TensorFormat
from tiles.recipes.definition import Recipe

__all__ = ["RECIPES", "recipe"]


def _recipe(name: str, activation: str, weight: str, source: str) -> Recipe:
    return Recipe(
        name=name,
        activation=TensorFormat.parse(activation),
        weight=TensorFormat.parse(weight),
        source=source,
    )


_PTQ = "Efficient Post-training Quantization with FP8 Formats, arXiv 2309.14592, standard scheme"
_DEEPSEEK = "DeepSeek-V3 technical report, arXiv 2412.19437, section 3.3"
_SMOOTH = "per-token activations, per-channel weights: LLM.int8(), arXiv 2208.07339, section 2"

RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        _recipe("bf16", "bf16", "bf16", "bfloat16 baseline, fp32 accumulation"),
        _recipe("fp16", "fp16", "fp16", "IEEE half precision, fp32 accumulation"),
        _recipe("e4m3-tensor", "e4m3fn.tensor", "e4m3fn.tensor", "FP8-BERT, arXiv 2312.05725"),
        _recipe("e4m3-row", "e4m3fn.row", "e4m3fn.row", _PTQ),
        _recipe("e5m2-tensor", "e5m2.tensor", "e5m2.tensor", _PTQ),
        _recipe("e5m2-row", "e5m2.row", "e5m2.row", _PTQ),
        _recipe("deepseek-fp8", "e4m3fn.b1x128", "e4m3fn.b128x128", _DEEPSEEK),
        _recipe("e5m2-b128", "e5m2.b1x128", "e5m2.b128x128", _DEEPSEEK + ", with E5M2 elements"),
        _recipe("int8-tensor", "int8.tensor", "int8.tensor", "symmetric absmax INT8"),
        _recipe("int8-row", "int8.row", "int8.row", _SMOOTH),
        _recipe(
            "int8-b128", "int8.b128x128", "int8.b128x128", "Jetfire's scheme with blocks of 128"
        ),
        _recipe("jetfire", "int8.b32x32", "int8.b32x32", "Jetfire, arXiv 2403.12422, section 3"),
    )
}


def recipe(name: str) -> Recipe:
    """Look a recipe up by name.

    Raises:
        ValueError: no such recipe; the message names the nearest and lists all.
    """
    try:
        return RECIPES[name]
    except KeyError:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown recipe {name!r}: {hint}choose from {', '.join(RECIPES)}"
        ) from None
