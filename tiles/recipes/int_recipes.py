"""Recipes of integers: INT8 by tensor, row and block, INT8 with outliers apart, weights alone."""

from tiles.recipes.definition import OutlierBlocks, OutlierColumns, Recipe

__all__ = ["INT_RECIPES"]

_JETFIRE = "Jetfire, arXiv 2403.12422"
_JETFIRE_FLOW = (
    "INT8 between operators, gradients rounded stochastically, 16-bit residual stream, "
    "floating-point kept weights"
)
_LLM_INT8 = "LLM.int8(), arXiv 2208.07339"
_FP8_PTQ = "Efficient Post-training Quantization with FP8 Formats, arXiv 2309.14592"
_FALLBACK = "Accurate INT8 Training Through Dynamic Block-Level Fallback, arXiv 2503.08040"


def _jetfire(name: str, block: str, source: str) -> Recipe:
    return Recipe.of(
        name,
        activation=f"int8.{block}",
        gradient=f"int8.{block}+sr",
        output=f"int8.{block}",
        residual="fp16",
        update="fp32",
        source=source,
    )


INT_RECIPES = (
    Recipe.of(
        "int8-tensor",
        activation="int8.tensor",
        source="symmetric absmax INT8, one scale a tensor: the baseline of arXiv 2208.07339",
    ),
    Recipe.of(
        "int8-ptq",
        activation="int8.tensor",
        weight="int8.row",
        source=f"the kind of INT8 that {_FP8_PTQ}, and FP8-BERT, arXiv 2312.05725, compare with: "
        "symmetric, per-tensor activations and per-channel weights under max scaling (here of each "
        "call's data); details of the papers' own INT8 setups are not modelled",
    ),
    Recipe.of(
        "int8-row",
        activation="int8.row",
        source=f"vector-wise INT8, {_LLM_INT8}, section 3.1, outliers not separated: per-token "
        "activations, per-channel weights",
    ),
    Recipe.of(
        "int8-b128",
        activation="int8.b128x128",
        source="per-block INT8 with blocks of 128, forward alone: arXiv 2403.12422, arXiv "
        "2503.08040",
    ),
    Recipe.of(
        "int8-b1x128",
        activation="int8.b1x128",
        weight="int8.b128x128",
        source="INT8 elements under the scaling of DeepSeek-V3, arXiv 2412.19437, section 3.3.2: "
        "1x128 tiles of activations, 128x128 blocks of weights",
    ),
    Recipe.of(
        "llm-int8",
        activation="int8.row",
        output="fp16",
        residual="fp16",
        outliers=OutlierColumns(),
        source=f"{_LLM_INT8}, section 3: feature columns with |x| > 6 in 16 bits, the rest "
        "vector-wise INT8",
    ),
    Recipe.of(
        "int8-fallback",
        activation="int8.b128x128",
        gradient="int8.b128x128+sr",
        update="fp32",
        outliers=OutlierBlocks(share=0.2),
        source=f"{_FALLBACK}: activation blocks with outliers take 16 bits in two INT8 steps; "
        "modelled: blocks of 128, of which a fifth falls back, where the paper steers a threshold "
        "to a share of blocks from step to step",
    ),
    _jetfire("jetfire", "b32x32", f"{_JETFIRE}: blocks of 32, fp32 scales; {_JETFIRE_FLOW}"),
    _jetfire("jetfire-64", "b64x64", f"{_JETFIRE}, with blocks of 64; {_JETFIRE_FLOW}"),
    _jetfire("jetfire-128", "b128x128", f"{_JETFIRE}, with blocks of 128; {_JETFIRE_FLOW}"),
    _jetfire(
        "jetfire-fp16-scales",
        "b32x32+fp16",
        f"{_JETFIRE}, with fp16 scales as in its released code; there codes follow from the "
        "unrounded scale, here from the stored one",
    ),
    Recipe.of(
        "w8a16",
        activation="bf16",
        weight="int8.row",
        source="weight-only INT8 as in TensorRT-LLM: one scale a channel, 16-bit activations",
    ),
    Recipe.of(
        "w4a16-g128",
        activation="bf16",
        weight="int4.g128",
        source="W4A16 of arXiv 2411.02355, groups of 128 along K as in GPTQ, arXiv 2210.17323; "
        "modelled: rounding to nearest, without its compensation",
    ),
)
