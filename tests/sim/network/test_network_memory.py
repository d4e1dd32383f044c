"""Memory against hand counts: a GPT layer of C = 4096 on 8 x 1024 tokens, and small ones."""

from dataclasses import replace

import pytest

from sim.network import Activation, Batch, Block, Memory, Network, Normalization, network_memory
from sim.network.memory import saved_tensors
from tiles.recipes import RECIPES, recipe

MIB = 2**20
GPT = Block(
    hidden=4096,
    heads=64,
    kv_heads=64,
    head_dim=64,
    inner=16384,
    activation=Activation.GELU,
    gated=False,
    normalization=Normalization.LAYER,
    causal=True,
    rotary=False,
)
BATCH = Batch(sequences=8, length=1024)
#: Bytes of a 16-bit tensor of tokens x C.
UNIT = 2 * 8192 * 4096
PARAMETERS = 12 * 4096**2 + 4 * 4096
#: Logarithms of the softmax's sums, and two normalisations' means and variances.
STATISTICS = 4 * 8 * 64 * 1024 + 2 * 8 * 8192


def memory(name: str, *, training: bool = True, layers: int = 1, block: Block = GPT) -> Memory:
    network = Network(name="gpt", block=block, layers=layers)
    return network_memory(network, BATCH, recipe(name), training=training)


def test_a_bf16_layer_by_hand() -> None:
    found = memory("bf16")
    assert found.weights == 2 * PARAMETERS
    assert found.gradients == 2 * PARAMETERS
    # Kept weights and two moments in fp32: with the above 16 bytes a parameter.
    assert found.optimizer == 12 * PARAMETERS
    # Both normalisations' inputs and outputs, qkv, attention's output, both sides of GELU.
    assert found.activations == (1 + 1 + 3 + 1 + 1 + 1 + 4 + 4) * UNIT + STATISTICS
    # At the last product: the stream's gradient, that of GELU's output, the weight's.
    assert found.working == UNIT + 4 * UNIT + 2 * 4 * 4096**2
    assert found.total == 16 * PARAMETERS + found.step


def test_int8_dataflow_keeps_half_the_bytes() -> None:
    found = memory("jetfire")
    # The same tensors, attention's output kept once: codes, and 4 bytes of scale for 1024.
    codes = 16 * UNIT // 2
    assert found.activations == codes + codes // 256 + STATISTICS
    assert memory("bf16").activations / found.activations == pytest.approx(1.985, abs=0.005)
    # Down: gradient codes and their transpose, the input's transpose, the leaving gradient's
    # codes, the weight gradient, beside the stream's gradient in 16 bits.
    scaled = UNIT // 2 + UNIT // 2 // 256
    assert found.working == UNIT + (1 + 1 + 4 + 4) * scaled + 2 * 4 * 4096**2
    assert memory("bf16").step / found.step == pytest.approx(1.43, abs=0.01)


def test_fp8_keeps_codes_of_product_inputs_alone() -> None:
    found = memory("e4m3-tensor")
    # Inputs of the four products in 8 bits, the rest (attention's output too) in 16.
    inputs = 4 * 4  # the tensors' own scales
    assert found.activations == (1 + 3 + 1 + 1 + 4) * UNIT + (1 + 1 + 1 + 4) * UNIT // 2 + (
        inputs + STATISTICS
    )
    # Codes of every weight twice: as they are and transposed.
    assert found.weights == 2 * 12 * 4096**2 + 2 * 4 * 4096 + 2 * 4 * 4


def test_fp8_lm_keeps_six_bytes_a_parameter_beside_its_codes() -> None:
    found = memory("fp8-lm")
    assert found.gradients == PARAMETERS
    # Kept weights in fp16, first moments in 8 bits, second ones in fp16.
    assert found.optimizer == (2 + 1 + 2) * PARAMETERS


def test_kept_weights_that_products_read_are_not_kept_twice() -> None:
    assert memory("bf16-sr").optimizer == 8 * PARAMETERS
    assert memory("bf16-kahan").optimizer == (8 + 2) * PARAMETERS


def test_inference_needs_weights_and_one_operator() -> None:
    found = memory("int8-row", training=False)
    assert found.weights == 12 * 4096**2 + 4 * (12288 + 4096 + 16384 + 4096) + 2 * 4 * 4096
    assert (found.gradients, found.optimizer, found.activations) == (0, 0, 0)
    assert found.working == UNIT + 5 * UNIT


def test_layers_multiply_all_but_the_working_memory() -> None:
    one, many = memory("bf16"), memory("bf16", layers=7)
    assert many.working == one.working
    for field in ("weights", "gradients", "optimizer", "activations"):
        assert getattr(many, field) == 7 * getattr(one, field)


def test_fewer_keys_keep_fewer_bytes() -> None:
    shared = replace(GPT, kv_heads=8)
    saved = {
        name: saved_tensors(block, BATCH, recipe("bf16"))
        for name, block in (("own", GPT), ("shared", shared))
    }
    fewer = saved["own"]["attention operands"] - saved["shared"]["attention operands"]
    assert fewer == 2 * UNIT * 56 // 64


@pytest.mark.parametrize("name", [name for name, one in RECIPES.items() if one.trains])
def test_nothing_keeps_more_activations_than_16_bits(name: str) -> None:
    assert memory(name).activations <= memory("bf16").activations
    assert memory(name).working > 0
