"""The CUDA backend without a GPU: a block on the stand-ins is the block on the twin."""

import contextlib
import sys
from typing import Any

import pytest
import torch
from cuda_stand_ins import LIMITS, TWIN, Launches, cuda, launches, trained
from nn_cases import coded, normal

from tiles.formats import TensorFormat
from tiles.kernels import kernel
from tiles.problems import parse_problem
from workbench.nn import (
    ReferenceBackend,
    TransformerBlock,
    attention,
    convert,
    training_runtime,
)
from workbench.nn.choices import Choice, Choices
from workbench.nn.cuda_backend import CudaBackend

__all__ = ["launches"]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("jetfire", {"bias": False}),
        ("jetfire", {"dropout": 0.1}),
        ("jetfire-64", {"bias": False, "norm": "rmsnorm", "feed_forward": "swiglu"}),
        ("jetfire-128", {"bias": False, "feed_forward": "silu"}),
        ("jetfire-128", {"dropout": 0.1}),
    ],
    ids=str,
)
def test_a_block_on_the_kernels_is_the_block_on_the_twin(
    recipe: str, options: dict[str, Any], launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gate", "gate_backward"):  # in fp32 on the kernels, so not to the bit: see below
        monkeypatch.setattr(CudaBackend, name, getattr(ReferenceBackend, name))
    expected, found = trained(TWIN, recipe, **options), trained(cuda(), recipe, **options)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)
    assert {"quantize", "dequantize", "transpose"} <= set(launches.seen)


def test_a_block_without_bias_quantises_in_the_products_themselves(launches: Launches) -> None:
    backend = cuda()
    trained(backend, "jetfire", bias=False)
    # Two outputs join the stream, in 16 bits.
    assert launches.seen.count("hopper int8.b32x32") == 2
    assert launches.seen.count("hopper bf16") == 2
    assert launches.seen.count("hopper int8.b32x32+sr") == 4
    assert launches.seen.count("hopper fp32") == 4
    assert backend.unserved == {}


@pytest.mark.parametrize("kept", [False, True], ids=["anew", "kept"])
@pytest.mark.parametrize("tokens", [64, 40])
def test_a_blocks_passes_over_memory(tokens: int, kept: bool, launches: Launches) -> None:
    """Every launch of a step; transposed: 4 inputs, the gradient behind GELU, weights if kept."""
    torch.manual_seed(0)
    run = training_runtime("jetfire", backend=cuda(), keep_weights=kept)
    model = TransformerBlock(64, 4, run, bias=False)
    x = normal(1, tokens, 64, dtype=torch.bfloat16).requires_grad_()
    y = model(x)
    forward, launches.seen = launches.seen, []
    y.backward(normal(1, tokens, 64, seed=1, dtype=torch.bfloat16))
    fits = tokens % 16 == 0  # else the transpose of the codes would be no operand
    assert forward.count("dequantize") == 1  # queries, keys and values
    assert forward.count("quantize") == 4 + 2  # weights; stream, attention's output
    assert forward.count("to codes") == 1  # the sum of the stream and a branch
    # q, k, v, attention's output and its gradient.
    assert launches.seen.count("dequantize") == 3
    # What the norms give back to the stream; of the second the branch takes the sum's codes.
    assert launches.seen.count("add codes") == 1
    assert launches.seen.count("add codes to codes both" if fits else "add codes to codes") == 1
    weights = 0 if kept else 4  # anew
    assert launches.seen.count("quantize turned") == weights
    assert "quantize both" not in launches.seen
    assert launches.seen.count("quantize") == (0 if fits else 1)
    # Gradients of queries, keys and values, where those of the joint projection lie; the output's.
    assert launches.seen.count("quantize part both") == (3 + 1 if fits else 0)
    assert launches.seen.count("quantize part") == (0 if fits else 3)
    assert launches.seen.count("transpose") == (9 if fits else 12) - weights


def test_weight_gradients_are_written_in_the_weights_dtype(launches: Launches) -> None:
    """Of bf16 weights an fp32 matrix would be written and read besides; sums are in fp32."""
    run = training_runtime("jetfire", backend=cuda(), seed=3)
    torch.manual_seed(0)
    model = TransformerBlock(64, 4, run, bias=False).bfloat16()
    wide = TransformerBlock(64, 4, training_runtime("jetfire", backend=cuda(), seed=3), bias=False)
    wide.load_state_dict(model.state_dict())
    grads = []
    for block in (model, wide):
        launches.seen.clear()
        x = normal(2, 32, 64, dtype=torch.bfloat16)
        block(x).backward(normal(2, 32, 64, seed=1, dtype=torch.bfloat16))
        # Besides, two outputs join the stream.
        found = [launches.seen.count(f"hopper {kind}") for kind in ("bf16", "fp32")]
        assert found == ([6, 0] if block is model else [2, 4])
        grads.append([p.grad for name, p in block.named_parameters() if p.ndim == 2])
    for narrow, exact in zip(*grads, strict=True):
        assert narrow is not None
        assert exact is not None
        assert torch.equal(narrow, exact.bfloat16())


@pytest.mark.parametrize("fused", [None, False, True])
def test_codes_of_128_come_from_products_of_16_bits_or_from_the_products_themselves(
    fused: bool | None, launches: Launches
) -> None:
    torch.manual_seed(0)
    run = training_runtime("jetfire-128", backend=cuda(), fused=fused)
    model = TransformerBlock(64, 4, run, bias=False)
    model(normal(2, 40, 64, dtype=torch.bfloat16).requires_grad_()).float().sum().backward()
    found = {s for s in launches.seen if s.startswith("hopper")}
    coded = {"hopper int8.b128x128", "hopper int8.b128x128+sr"} if fused else set()
    # Weights of fp32 have gradients of fp32; two outputs join the stream.
    assert found == coded | {"hopper plain bf16", "hopper plain fp32"}
    # What the product leaves goes into the activation's gradient as it is.
    assert launches.seen.count("gelu-bwd of numbers") == (0 if fused else 1)
    assert launches.seen.count("gelu-bwd") == (1 if fused else 0)
    # And into attention and its gradient: of codes are q, k, v twice, its output, and a gradient.
    assert launches.seen.count("quantize rounded") == (0 if fused else 1)
    assert launches.seen.count("dequantize") == (4 if fused else 2)
    # And into the norms', which leave the stream's: nothing is left to add.
    assert launches.seen.count("layernorm-bwd of numbers") == (0 if fused else 2)
    assert launches.seen.count("layernorm-bwd") == (2 if fused else 0)
    added = {s for s in launches.seen if s.startswith("add")}
    assert added == ({"add codes", "add codes to codes both"} if fused else set())


def test_what_no_kernel_serves_is_computed_and_listed(launches: Launches) -> None:
    backend = cuda()
    x, out = coded(64, 96), TensorFormat.parse("int8.b16x16")
    found = backend.elementwise("gelu", x.codes, out=out)
    expected = TWIN.elementwise("gelu", x.codes, out=out)
    assert torch.equal(found.main.codes, expected.main.codes)
    assert backend.unserved["gelu to int8.b16x16"] == (
        "operands of another format, or with fallback"
    )
    layer = convert(torch.nn.Linear(64, 64), "jetfire", fallback=0.2, backend=backend).model
    layer(normal(64, 64))
    assert any("fallback" in what for what in backend.unserved)


@pytest.mark.parametrize("op", ["gelu", "silu", "relu"])
def test_gated_units_are_those_of_the_twin_in_fp32_and_listed(op: str, launches: Launches) -> None:
    """By kernels before and behind it; a value on the edge of two codes falls to either side."""
    backend, out = cuda(), TensorFormat.parse("int8.b32x32")
    rounded = TensorFormat.parse("int8.b32x32+sr")
    gate, up, dy = (coded(64, 96, seed=s).codes for s in range(3))
    pairs = [
        (b.gate(op, gate, up, out=out, share=0.0),
         *b.gate_backward(op, gate, up, dy, out=rounded, seed=7))
        for b in (backend, TWIN)
    ]  # fmt: skip
    for found, expected in zip(*pairs, strict=True):
        apart = (found.main.codes.int() - expected.main.codes.int()).abs()
        assert int(apart.max()) <= 1
        assert float((apart > 0).double().mean()) < 1e-3
        torch.testing.assert_close(found.main.scales, expected.main.scales, rtol=1e-6, atol=0)
    assert set(launches.seen) == {"quantize", "dequantize"}
    assert {"gate", "gate-bwd"} == backend.unserved.keys()
    assert "fp32" in backend.unserved["gate"]


def test_launches_make_their_device_current(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[CudaBackend] = []

    def current(self: CudaBackend) -> contextlib.AbstractContextManager[None]:
        entered.append(self)
        return contextlib.nullcontext()

    monkeypatch.setattr(CudaBackend, "_current", current)
    trained(cuda(), "jetfire", dropout=0.1)
    assert len(entered) == len(launches.seen) > 20


@pytest.mark.parametrize("recipe", ["jetfire", "jetfire-64"])
def test_parts_of_attentions_gradient_have_the_codes_of_the_whole(
    recipe: str, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns of one sequence each; the twin joins the numbers first."""
    monkeypatch.setattr(sys.modules["workbench.nn.attention"], "TURN_BYTES", 1)
    grads = []
    for backend in (TWIN, cuda()):
        torch.manual_seed(0)
        layer = convert(torch.nn.Linear(64, 192), recipe, backend=backend, seed=3).model
        x = normal(3, 64, 64, dtype=torch.bfloat16).requires_grad_()
        attention(layer(x), 2, layer.runtime).backward(
            normal(3, 64, 64, seed=1, dtype=torch.bfloat16)
        )
        grads.append(x.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0)
    assert launches.seen.count("quantize part both") == 3 * 3


@pytest.mark.parametrize(("rows", "part"), [(96, (96, 96)), (80, (80, 32)), (80, (16, 32))])
def test_a_matrix_in_parts_has_its_own_codes(
    rows: int, part: tuple[int, int], launches: Launches
) -> None:
    out, x = TensorFormat.parse("int8.b32x32+sr"), normal(rows, 96, dtype=torch.bfloat16)
    backend = cuda()
    rest: dict[str, Any] = {"parts": part, "both": True, "seed": 7}
    made = backend.assembly((rows, 96), x.dtype, x.device, out, **rest)
    for row in range(0, rows, part[0]):
        for col in range(0, 96, part[1]):
            made.put(x[row : row + part[0], col : col + part[1]], row, col)
    found, expected = made.codes(), TWIN.quantize(x, out, seed=7).main
    for one, other in ((found.main, expected), (found.turned, expected)):
        assert one is not None
        assert one.scales is not None
        assert other.scales is not None
        turn = one is found.turned
        assert torch.equal(one.codes, other.codes.t() if turn else other.codes)
        assert torch.equal(one.scales, other.scales.t() if turn else other.scales)
    # Parts of 16 rows are no whole blocks: they are put together, and are one.
    assert launches.seen.count("quantize part both") == (
        1 if part[0] == 16 else -(-rows // part[0]) * (96 // part[1])
    )


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("tuned", [False, True])
def test_blocks_both_ways_are_a_part_unless_a_sweep_knows_better(
    tuned: bool, side: int, launches: Launches
) -> None:
    fmt = f"int8.b{side}x{side}+sr"
    out, x = TensorFormat.parse(fmt), normal(256, 384, dtype=torch.bfloat16)
    text = f"quantize:256x384:{fmt}:bf16:transposed"
    backend, family = cuda(), kernel("triton_quantize_tiles")
    config = family.default(parse_problem(text), LIMITS)
    found = Choice(family=family.name, config=config)
    backend.choices = Choices(LIMITS, {text: found} if tuned else None)
    made, expected = backend.quantize_both(x, out, seed=7), TWIN.quantize(x, out, seed=7).main
    assert launches.seen == ["quantize both" if tuned else "quantize part both"]
    assert torch.equal(made.main.codes, expected.codes)
    assert made.turned is not None
    assert torch.equal(made.turned.codes, expected.codes.t())
