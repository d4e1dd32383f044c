"""A transformer's extents: parameters, products, and what is refused."""

from typing import Any

import pytest

from sim.network import Activation, Batch, Block, Network, Normalization

GPT: dict[str, Any] = {
    "hidden": 64,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 16,
    "inner": 256,
    "activation": Activation.GELU,
    "gated": False,
    "normalization": Normalization.LAYER,
    "causal": True,
    "rotary": False,
}
LLAMA = GPT | {
    "kv_heads": 2,
    "inner": 96,
    "activation": Activation.SILU,
    "gated": True,
    "normalization": Normalization.RMS,
    "rotary": True,
}


def test_products_of_an_ungated_layer() -> None:
    block = Block(**GPT)
    assert [(one.name, one.n, one.k) for one in block.linears] == [
        ("qkv", 192, 64),
        ("o", 64, 64),
        ("up", 256, 64),
        ("down", 64, 256),
    ]
    # 12 hidden^2 of matrices, two normalisations of a weight and a bias.
    assert block.parameters == 12 * 64**2 + 4 * 64


def test_products_of_a_gated_layer_with_shared_keys() -> None:
    block = Block(**LLAMA, bias_elements=7)
    assert [(one.name, one.n, one.k) for one in block.linears] == [
        ("qkv", 128, 64),
        ("o", 64, 64),
        ("gate_up", 192, 64),
        ("down", 64, 96),
    ]
    assert block.parameters == 64 * (128 + 64 + 192 + 96) + 7 + 2 * 64


def test_layers_of_a_network_add_up() -> None:
    network = Network(name="gpt", block=Block(**GPT), layers=12)
    assert network.parameters == 12 * Block(**GPT).parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4, "kv_heads": 3}, "4 heads must be a multiple of 3 key-value heads: correct"),
        ({"hidden": 0}, "hidden = 0: a dimension must lie in 1.."),
        ({"inner": 2**24, "gated": True}, "gate_up = 33554432: a dimension must lie in 1.."),
        ({"bias_elements": -1}, "bias_elements = -1 must not be negative"),
    ],
)
def test_impossible_extents_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Block(**(GPT | change))


@pytest.mark.parametrize("layers", [0, 10_001])
def test_impossible_depths_are_refused(layers: int) -> None:
    with pytest.raises(ValueError, match=rf"{layers} layers must lie in 1..10000: correct"):
        Network(name="gpt", block=Block(**GPT), layers=layers)


@pytest.mark.parametrize(
    ("sequences", "length", "message"),
    [
        (0, 8, "batch = 0: a dimension must lie in 1.."),
        (8, 0, "sequence = 0: a dimension must lie in 1.."),
        (2**13, 2**12, "batch 8192 x sequence 4096 are 33554432 tokens: at most 16777216"),
    ],
)
def test_impossible_batches_are_refused(sequences: int, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batch(sequences=sequences, length=length)
