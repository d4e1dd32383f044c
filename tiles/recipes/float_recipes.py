"""Recipes of 16-bit and 8-bit floats (and posits) whose scales, if any, are fp32."""

from tiles.recipes.definition import Recipe

__all__ = ["FLOAT_RECIPES"]

_PTQ = "Efficient Post-training Quantization with FP8 Formats, arXiv 2309.14592, standard scheme"
_MAX = "per-tensor activations and per-channel weights under max scaling (here of each call's data)"
_FP8 = "FP8 Formats for Deep Learning, arXiv 2209.05433"
_W8A8 = "W8A8 with dynamic per-token activations and per-channel weights, arXiv 2411.02355"
_DEEPSEEK = "DeepSeek-V3 technical report, arXiv 2412.19437, section 3.3"
_REVISIT = "Revisiting BFloat16 Training, arXiv 2010.06192"

FLOAT_RECIPES = (
    Recipe.of(
        "bf16",
        activation="bf16",
        update="fp32",
        source="mixed precision with bfloat16, arXiv 1905.12322: fp32 accumulation and weights",
    ),
    Recipe.of(
        "bf16-kahan",
        activation="bf16",
        update="bf16+kahan",
        source=f"{_REVISIT}: no fp32 weights, Kahan summation in the update",
    ),
    Recipe.of(
        "bf16-sr",
        activation="bf16",
        update="bf16+sr",
        source=f"{_REVISIT}: no fp32 weights, stochastic rounding in the update",
    ),
    Recipe.of(
        "fp16",
        activation="fp16",
        gradient="fp16",
        output="fp16",
        residual="fp16",
        update="fp32",
        source="Mixed Precision Training, arXiv 1710.03740; its loss scaling is not modelled",
    ),
    Recipe.of(
        "e4m3-tensor",
        activation="e4m3fn.tensor",
        gradient="e5m2.tensor",
        update="fp32",
        source=f"{_FP8}: E4M3 forward, E5M2 gradients; scales of each call's data, "
        "as in arXiv 2309.17224",
    ),
    Recipe.of("e4m3-row", activation="e4m3fn.row", source=f"{_W8A8}, FP8"),
    Recipe.of(
        "e5m2-tensor",
        activation="e5m2.tensor",
        gradient="e5m2.tensor",
        update="fp32",
        source=f"e4m3-tensor with E5M2 throughout, for comparison; elements: {_FP8}",
    ),
    Recipe.of(
        "e5m2-row",
        activation="e5m2.row",
        source=f"e4m3-row with E5M2, for comparison; elements: {_FP8}",
    ),
    Recipe.of(
        "fp8-bert",
        activation="e4m3fn.tensor",
        source="FP8-BERT, arXiv 2312.05725: E4M3 by calibration and format conversion, taken as "
        "symmetric scales per tensor; scales of the data itself stand in for calibrated ones",
    ),
    Recipe.of(
        "fp8-ptq-e4m3",
        activation="e4m3fn.tensor",
        weight="e4m3fn.row",
        source=f"{_PTQ}: {_MAX}",
    ),
    Recipe.of(
        "fp8-ptq-e3m4",
        activation="e3m4fn.tensor",
        weight="e3m4fn.row",
        source=f"{_PTQ}: {_MAX}; E3M4 reaches 30",
    ),
    Recipe.of(
        "fp8-ptq-e5m2",
        activation="e5m2",
        source=f"{_PTQ}: E5M2 is a direct cast, no scales and no calibration",
    ),
    Recipe.of(
        "fp8-ptq-mixed",
        activation="e4m3fn.tensor",
        weight="e3m4fn.row",
        source=f"{_PTQ.replace('standard', 'extended')}, mixed formats: E4M3 activations, "
        f"E3M4 weights; {_MAX}",
    ),
    Recipe.of(
        "fp8-lm",
        activation="e4m3fn.tensor",
        gradient="e5m2.tensor",
        update="fp16.tensor",
        weight_gradient="e4m3fn.tensor",
        moments=("e4m3fn.tensor", "fp16.tensor"),
        source="FP8-LM, arXiv 2310.18313: E4M3 forward, E5M2 activation gradients, kept weights in "
        "fp16 with a tensor scale; its E4M3 weight gradients and first moments and fp16 second "
        "moments count as memory alone",
    ),
    Recipe.of(
        "deepseek-fp8",
        activation="e4m3fn.b1x128",
        weight="e4m3fn.b128x128",
        gradient="e4m3fn.b1x128",
        update="fp32",
        source=f"{_DEEPSEEK}: E4M3 throughout, 1x128 tiles and 128x128 weight blocks",
    ),
    Recipe.of(
        "e5m2-b128",
        activation="e5m2.b1x128",
        weight="e5m2.b128x128",
        gradient="e5m2.b1x128",
        update="fp32",
        source=f"deepseek-fp8 with E5M2 elements, for comparison; blocks: {_DEEPSEEK}",
    ),
    Recipe.of(
        "e4m3-b1x128",
        activation="e4m3fn.b1x128",
        source=f"{_DEEPSEEK}: weight gradients, whose operands both have 1x128 tiles along tokens",
    ),
    Recipe.of(
        "e4m3-b128",
        activation="e4m3fn.b128x128",
        source=f"{_DEEPSEEK}, with its 128x128 blocks on both sides: they serve a matrix and its "
        "transpose, as weight gradients take it; the report itself has 1x128 tiles there",
    ),
    Recipe.of(
        "unit-scaling",
        activation="e4m3fn",
        gradient="e5m2",
        output="fp16",
        residual="fp16",
        update="fp32",
        source="Unit Scaling, arXiv 2303.11257: fixed factors give unit variance, so E4M3 (forward)"
        " and E5M2 (gradients) are direct casts; operands are taken to have unit variance",
    ),
    Recipe.of(
        "ffp8",
        activation="ffp8_e4m3.tensor+pow2",
        weight="ffp8_e3m4.tensor+pow2",
        source="FFP8, arXiv 2104.07329: the paper picks sign, exponent width and bias per tensor; "
        "modelled: signed, widths 4 (activations) and 3 (weights) fixed, the bias as a power-of-two"
        " scale that avoids overflow",
    ),
    Recipe.of(
        "posit8",
        activation="posit8es1",
        gradient="posit8es2",
        update="fp32",
        source="8-bit posits in training: PositNN, arXiv 2105.00053; modelled: direct cast, es 1 "
        "(4 fraction bits on [1/4, 4), where es 0 ends at 2^-6 and es 2 has 3), es 2 for the wider "
        "range of gradients, fp32 kept weights",
    ),
)
