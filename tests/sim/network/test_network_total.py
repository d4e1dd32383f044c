"""The sum over operators: laws, breakdown, intervals, refusals."""

from dataclasses import replace
from functools import partial

import pytest
from network_pricing import best

import sim
from sim.network import (
    Activation,
    Batch,
    Block,
    Network,
    NetworkCost,
    Normalization,
    Part,
    Phase,
    Span,
    network_cost,
)
from tiles.kernels import NumericPath
from tiles.recipes import recipe

H200 = sim.load_gpu("h200")
BLOCK = Block(
    hidden=1024,
    heads=16,
    kv_heads=16,
    head_dim=64,
    inner=4096,
    activation=Activation.GELU,
    gated=False,
    normalization=Normalization.LAYER,
    causal=True,
    rotary=False,
)
NETWORK = Network(name="gpt", block=BLOCK, layers=3)
BATCH = Batch(sequences=2, length=512)


def cost(
    name: str,
    *,
    training: bool = True,
    batch: Batch = BATCH,
    gpu: sim.Gpu = H200,
    network: Network = NETWORK,
) -> NetworkCost:
    pricer = partial(best, name=gpu.name)
    found = network_cost(network, batch, recipe(name), gpu, pricer, training=training)
    assert isinstance(found, NetworkCost), found
    return found


def test_phases_and_parts_make_up_the_whole() -> None:
    found = cost("jetfire")
    whole = found.span()
    for spans in (
        [found.span(phase) for phase in Phase],
        list(found.parts.values()),
        [one.span.times(3) for one in found.operators],
    ):
        total = Span.sum(spans)
        assert total.time_us == pytest.approx(whole.time_us)
        assert total.low_us == pytest.approx(whole.low_us)
        assert total.high_us == pytest.approx(whole.high_us)
    assert list(found.parts) == [part for part in Part if part in found.parts]
    assert found.span(Phase.UPDATE, Part.PRODUCTS).time_us == 0


def test_intervals_add_up_at_their_ends() -> None:
    """Independent errors would leave an interval of a tenth of this width."""
    span = Span(time_us=10.0, low_us=8.0, high_us=13.0)
    total = Span.sum([span] * 100)
    assert (total.time_us, total.low_us, total.high_us) == (1000.0, 800.0, 1300.0)
    found = cost("bf16").span()
    assert found.low_us < 0.85 * found.time_us
    assert found.high_us > 1.15 * found.time_us


def test_training_contains_inference() -> None:
    forward = cost("bf16", training=False)
    training = cost("bf16")
    assert {one.operator.phase for one in forward.operators} == {Phase.FORWARD}
    assert training.span(Phase.FORWARD) == forward.span()
    assert training.flops == 3 * forward.flops
    assert 1.5 < training.span(Phase.BACKWARD).time_us / forward.span().time_us < 3.0


@pytest.mark.parametrize("name", ["bf16", "deepseek-fp8", "jetfire"])
def test_more_tokens_are_never_cheaper(name: str) -> None:
    times = [
        cost(name, batch=Batch(sequences=sequences, length=512)).span().time_us
        for sequences in (1, 2, 4)
    ]
    assert times == sorted(times)
    assert times[-1] > 1.3 * times[0]


def test_more_layers_take_so_many_times_as_long() -> None:
    deeper = cost("bf16", network=replace(NETWORK, layers=6))
    assert deeper.span().time_us == pytest.approx(2 * cost("bf16").span().time_us)


def test_eight_bits_pay_where_products_bind() -> None:
    wide = replace(NETWORK, block=replace(BLOCK, hidden=4096, heads=64, kv_heads=64, inner=16384))
    batch = Batch(sequences=8, length=1024)
    whole = cost("bf16", network=wide, batch=batch)
    low = cost("e4m3-tensor", network=wide, batch=batch)
    assert 1.2 < whole.span().time_us / low.span().time_us < 2.0
    assert low.parts[Part.PRODUCTS].time_us < whole.parts[Part.PRODUCTS].time_us
    assert Part.QUANTIZE not in whole.parts


def test_a_gpu_without_warpgroups_runs_the_int8_dataflow_too() -> None:
    found = cost("jetfire-64", gpu=sim.load_gpu("a100"))
    products = {one.operator.name: one.kernel for one in found.operators}
    assert (products["up"], products["up quantize"]) == ("triton_gemm", "cuda_quantize")
    assert products["up wgrad"] == "triton_gemm"
    assert found.path is NumericPath.NATIVE


def test_one_emulated_product_makes_the_path_emulated() -> None:
    assert cost("mxfp6-e3m2").path is NumericPath.EMULATED
    assert cost("bf16").path is NumericPath.NATIVE


@pytest.mark.parametrize(
    ("name", "gpu", "message"),
    [
        ("int8-row", "h200", "int8-row is for inference: choose a recipe that trains"),
        ("posit8", "mi300x", "qkv: gemm:1024x3072x1024:posit8:bf16: "),
        ("jetfire", "mi300x", "norm 1: dataflow:1024x1024:layernorm:int8.b32x32: "),
    ],
)
def test_what_cannot_be_told_has_its_reason(name: str, gpu: str, message: str) -> None:
    one = sim.load_gpu(gpu)
    pricer = partial(best, name=gpu)
    found = network_cost(NETWORK, BATCH, recipe(name), one, pricer, training=True)
    assert isinstance(found, str)
    assert found.startswith(message)
