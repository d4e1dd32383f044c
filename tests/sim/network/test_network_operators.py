"""The operators of a layer under a recipe, against hand counts."""

from collections import Counter
from dataclasses import replace

import pytest

from sim.network import Activation, Batch, Block, Normalization, Operator, Part, Phase
from sim.network.attention import Attention, AttentionKernel
from sim.network.layer import layer_operators
from sim.network.streaming import Streaming
from tiles.problems import Gemm, Problem
from tiles.recipes import recipe

BLOCK = Block(
    hidden=64,
    heads=4,
    kv_heads=4,
    head_dim=16,
    inner=256,
    activation=Activation.GELU,
    gated=False,
    normalization=Normalization.LAYER,
    causal=False,
    rotary=False,
)
GATED = replace(
    BLOCK,
    kv_heads=2,
    activation=Activation.SILU,
    gated=True,
    normalization=Normalization.RMS,
    causal=True,
    rotary=True,
)
BATCH = Batch(sequences=2, length=32)
TOKENS = 64


def layer(name: str, block: Block = BLOCK, *, training: bool = True) -> list[Operator]:
    return list(layer_operators(block, BATCH, recipe(name), training=training))


def flops(operators: list[Operator]) -> int:
    return sum(one.flops for one in operators)


def texts(operators: list[Operator], part: Part, phase: Phase) -> list[str]:
    return [str(one.work) for one in operators if (one.part, one.phase) == (part, phase)]


def test_forward_operations_by_hand() -> None:
    products = 2 * TOKENS * 12 * 64**2
    scores = 4 * 2 * 4 * 32**2 * 16
    assert flops(layer("bf16", training=False)) == products + scores


@pytest.mark.parametrize("name", ["bf16", "deepseek-fp8", "jetfire", "mxfp8-e4m3", "fp8-lm"])
@pytest.mark.parametrize("block", [BLOCK, GATED], ids=["ungated", "gated"])
def test_training_does_three_times_the_operations(name: str, block: Block) -> None:
    assert flops(layer(name, block)) == 3 * flops(layer(name, block, training=False))


def test_bytes_of_the_16_bit_passes_by_hand() -> None:
    passes = {one.name: one.work for one in layer("bf16") if isinstance(one.work, Streaming)}
    unit = 2 * TOKENS * 64
    moved = {name: work.moved_bytes / unit for name, work in passes.items() if name != "adam"}
    assert moved == {
        "norm 1": 2,
        "norm 2": 2,
        "activation": 8,
        "residual 1": 3,
        "residual 2": 3,
        "activation backward": 12,
        "norm 2 backward": 3,
        "norm 2 vectors": 2 + 2 / 64,
        "residual 2 backward": 3,
        "qkv gradient join": 6,
        "norm 1 backward": 3,
        "norm 1 vectors": 2 + 2 / 64,
        "residual 1 backward": 3,
    }
    # Gradient 2, moments 8 and kept weight 4 in; moments, weight and its 16-bit copy out.
    assert passes["adam"].moved_bytes == BLOCK.parameters * (2 + 12 + 12 + 2)


@pytest.mark.parametrize(("name", "copy"), [("jetfire", 2), ("deepseek-fp8", 0)])
def test_adam_leaves_a_16_bit_copy_where_layers_quantise_that(name: str, copy: int) -> None:
    (adam,) = [one.work for one in layer(name) if one.phase is Phase.UPDATE]
    assert isinstance(adam, Streaming)
    assert adam.moved_bytes == BLOCK.parameters * (2 + 12 + 12 + copy)


def test_dgrad_contracts_over_features_and_wgrad_over_tokens() -> None:
    found = {one.name: one.work for one in layer("deepseek-fp8") if isinstance(one.work, Gemm)}
    assert found["up"].shape == (64, 256, 64)
    assert found["up dgrad"].shape == (64, 64, 256)
    assert found["up wgrad"].shape == (256, 64, 64)
    left, right = (
        (str(found[name].recipe.activation), str(found[name].recipe.weight))
        for name in ("up dgrad", "up wgrad")
    )
    assert left == ("e4m3fn.b1x128", "e4m3fn.b128x128")
    assert right == ("e4m3fn.b1x128", "e4m3fn.b1x128")


def test_products_see_no_rounding() -> None:
    for one in layer("jetfire"):
        if isinstance(one.work, Gemm):
            assert str(one.work.recipe.activation) == "int8.b32x32"
            assert str(one.work.recipe.weight) == "int8.b32x32"


def test_inference_quantises_activations_alone() -> None:
    found = texts(layer("e4m3-row", training=False), Part.QUANTIZE, Phase.FORWARD)
    assert found == [
        "quantize:64x64:e4m3fn.row:bf16",
        "quantize:64x64:e4m3fn.row:bf16",
        "quantize:64x64:e4m3fn.row:bf16",
        "quantize:64x256:e4m3fn.row:bf16",
    ]
    assert texts(layer("bf16", training=False), Part.QUANTIZE, Phase.FORWARD) == []
    assert texts(layer("w4a16-g128", training=False), Part.QUANTIZE, Phase.FORWARD) == []


def test_training_quantises_weights_and_gradients_with_transposed_copies() -> None:
    operators = layer("mxfp8-e4m3")
    assert texts(operators, Part.QUANTIZE, Phase.FORWARD)[-2:] == [
        "quantize:64x256:e4m3fn.mx:bf16:transposed",
        "quantize:64x256:e4m3fn.mx:fp32:transposed",
    ]
    assert texts(operators, Part.QUANTIZE, Phase.BACKWARD) == [
        f"quantize:64x{cols}:e4m3fn.mx:bf16:transposed" for cols in (64, 256, 64, 192)
    ]


def test_casts_without_scales_pass_over_memory_once() -> None:
    (first, *_) = [one for one in layer("unit-scaling") if one.part is Part.QUANTIZE]
    assert isinstance(first.work, Streaming)
    assert (first.work.read_bytes, first.work.written_bytes) == (2 * 64 * 64, 2 * 64 * 64)


def test_the_int8_dataflow_saves_codes_and_its_products_leave_numbers() -> None:
    operators = layer("jetfire")
    norm, activation = Part.NORMALIZATION, Part.ACTIVATION
    assert texts(operators, norm, Phase.FORWARD) == ["dataflow:64x64:layernorm:int8.b32x32"] * 2
    assert texts(operators, norm, Phase.BACKWARD) == ["streaming:layernorm-bwd-add"] * 2
    assert texts(operators, activation, Phase.FORWARD) == ["dataflow:64x256:gelu:int8.b32x32"]
    assert texts(operators, activation, Phase.BACKWARD) == ["streaming:gelu-bwd"]
    outs = {one.name: one.work.out for one in operators if isinstance(one.work, Gemm)}
    assert len(outs) == 12
    assert set(outs.values()) == {"fp16"}
    assert texts(operators, Part.QUANTIZE, Phase.FORWARD) == [
        "quantize:64x64:int8.b32x32:fp16",  # what the first norm takes
        "quantize:192x64:int8.b32x32:fp16",
        "streaming:quantize-rounded",
        "quantize:64x64:int8.b32x32:fp16",
        "quantize:64x64:int8.b32x32:fp16",
        "quantize:256x64:int8.b32x32:fp16",
        "quantize:64x256:int8.b32x32:fp16",
        "quantize:64x256:int8.b32x32:fp16",
    ]
    assert texts(operators, Part.QUANTIZE, Phase.BACKWARD) == [
        "quantize:64x64:int8.b32x32+sr:fp16:transposed",
        "transpose:64x256:int8",
        "quantize:256x64:int8.b32x32:fp16",  # weights once more, turned
        "transpose:64x256:int8",
        "transpose:64x64:int8",
        "quantize:64x256:int8.b32x32:fp16",
        "quantize:64x64:int8.b32x32+sr:fp16:transposed",
        "transpose:64x64:int8",
        "quantize:64x64:int8.b32x32:fp16",
        "dequantize:64x192:int8.b32x32:fp16",
        "dequantize:64x64:int8.b32x32:fp16",
        "quantize:64x192:int8.b32x32+sr:fp16:transposed",
        "transpose:64x64:int8",
        "quantize:64x192:int8.b32x32:fp16",
    ]


def test_bytes_of_the_passes_between_codes_and_numbers_by_hand() -> None:
    passes = {one.name: one.work for one in layer("jetfire") if isinstance(one.work, Streaming)}
    unit = TOKENS * 64
    moved = {name: work.moved_bytes / unit for name, work in passes.items() if name != "adam"}
    assert moved == {
        "qkv quantize": 3 * (2 + 1 + 2),  # codes, and what they stand for
        "residual 1": 2 + 2 + 2 + 1,  # its sum's codes too
        "residual 2": 6,
        "activation backward": 4 * (1 + 2 + 1),
        "norm 2 backward": 1 + 2 + 2 + 2,  # the stream's gradient comes in and the sum leaves
        "norm 1 backward": 1 + 2 + 2 + 2,
    }


@pytest.mark.parametrize("name", ["bf16", "deepseek-fp8", "jetfire"])
def test_every_layer_takes_the_attention_that_torch_takes(name: str) -> None:
    found = [one.work.kernel for one in layer(name) if isinstance(one.work, Attention)]
    assert found == [AttentionKernel.TORCH] * 2


def test_gated_codes_are_counted_in_bytes() -> None:
    operators = layer("jetfire", GATED)
    activation = next(one for one in operators if one.name == "activation")
    assert isinstance(activation.work, Streaming)
    assert activation.work.moved_bytes == TOKENS * (2 * 256 + 256)
    # Its gradient takes codes, which the product in front of it does not leave.
    names = [one.name for one in operators]
    at = names.index("activation backward")
    assert names[at - 1] == "activation gradient quantize"


def test_every_operator_of_a_layer_is_there_once() -> None:
    counts = Counter(one.name for one in layer("bf16", GATED))
    assert set(counts.values()) == {1}
    forward, backward, update = 11, 18, 1
    assert len(counts) == forward + backward + update
    problems = [one.work for one in layer("bf16", GATED) if isinstance(one.work, Problem)]
    assert len(problems) == 12
