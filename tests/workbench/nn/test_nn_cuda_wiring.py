"""The CUDA backend without a GPU: launchers check their real arguments, then the twin answers.

Each launch is replaced by the launcher's own checks and the reference's result for the operands
that it was given, so operands in each other's place, a forgotten transposition or another key show.
"""

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nn_cases import coded, normal, one_thread

from sim import load_gpu
from tiles.formats import TensorFormat
from tiles.formats.torch_codec import CODE_DTYPES, QuantizedTensor
from tiles.kernels import kernel
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows, gemm_hopper_blocks
from tiles.kernels.triton import dequantize_tiles, gemm_scaled, quantize_tiles, transpose_codes
from tiles.kernels.triton.dequantize_tiles_arguments import request as dequantize_request
from tiles.kernels.triton.quantize_tiles_arguments import request as quantize_request
from tiles.problems import parse_problem
from workbench.nn import (
    RECIPES,
    Codes,
    ReferenceBackend,
    TransformerBlock,
    convert,
    training_runtime,
)
from workbench.nn import cuda_backend as backend_module
from workbench.nn import cuda_products as products_module
from workbench.nn.choices import Choice, Choices, NoKernel
from workbench.nn.cuda_backend import CudaBackend

__all__ = ["one_thread"]

LIMITS = load_gpu("h200").limits
CPU = torch.device("cpu")
TWIN = ReferenceBackend()


#: As CuPy holds them: bf16 and 8-bit floats as unsigned patterns.
NUMPY = {
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.float8_e4m3fn: "uint8",
    torch.float8_e5m2: "uint8",
    torch.bfloat16: "uint16",
    torch.float32: "float32",
}


class FakeDevice:
    """A device that is current for nothing."""

    id = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeDevice)

    __hash__ = None  # type: ignore[assignment]  # as CuPy's devices compare


def view(tensor: torch.Tensor) -> Any:
    """What launchers look at in a CuPy array, with the tensor beside it."""
    return SimpleNamespace(
        shape=tuple(tensor.shape),
        ndim=tensor.ndim,
        dtype=np.dtype(NUMPY[tensor.dtype]),
        strides=tuple(s * tensor.element_size() for s in tensor.stride()),
        flags=SimpleNamespace(c_contiguous=tensor.is_contiguous()),
        data=SimpleNamespace(ptr=tensor.data_ptr()),
        device=FakeDevice(),
        tensor=tensor,
    )


def codes(x: Any, scales: Any, fmt: str) -> Codes:
    main = QuantizedTensor(codes=x.tensor, scales=scales.tensor, format=TensorFormat.parse(fmt))
    return Codes(main=main)


def write(found: Codes, out: Any, scales: Any) -> None:
    out.tensor.copy_(found.main.codes)
    scales.tensor.copy_(found.main.scales)


class Launches:
    """The launchers' stand-ins; counts what was launched."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def blocks(self, *, stream: Any, **given: Any) -> None:
        dataflow_blocks.prepare(**given)
        op, (rows, cols) = given["op"], given["block"]
        self.seen.append(op)
        plain = f"{given['element']}.b{rows}x{cols}"
        out = TensorFormat.parse(plain + "+sr" * given["stochastic"])
        x = codes(given["x"], given["x_scales"], plain)
        if op == "dropout":
            found = TWIN.dropout(
                x, out=out, probability=given["probability"], mask_seed=given["mask_seed"],
                seed=given["seed"],
            )  # fmt: skip
        else:
            dy = codes(given["dy"], given["dy_scales"], plain) if "dy" in given else None
            found = TWIN.elementwise(op, x, dy=dy, out=out, seed=given["seed"])
        write(found, given["out"], given["out_scales"])

    def rows(self, *, stream: Any, **given: Any) -> None:
        dataflow_rows.prepare(**given)
        op, (rows, cols) = given["op"], given["block"]
        self.seen.append(op)
        plain = f"{given['element']}.b{rows}x{cols}"
        x = codes(given["x"], given["x_scales"], plain)
        gamma, mean, variance = (given[n].tensor for n in ("gamma", "mean", "variance"))
        if not op.endswith("-bwd"):
            beta = given["beta"].tensor if "beta" in given else None
            forward = TWIN.normalize(
                op, x, gamma, beta, epsilon=given["epsilon"], out=TensorFormat.parse(plain)
            )
            mean.copy_(forward.mean)
            variance.copy_(forward.variance)
            write(forward.y, given["out"], given["out_scales"])
            return
        out = TensorFormat.parse(plain + "+sr" * given["stochastic"])
        dy = codes(given["other"], given["other_scales"], plain)
        back = TWIN.normalize_backward(
            op.removesuffix("-bwd"), x, dy, mean, variance, gamma,
            epsilon=given["epsilon"], out=out, seed=given["seed"],
        )  # fmt: skip
        write(back.dx, given["out"], given["out_scales"])
        given["d_gamma"].tensor.copy_(back.d_gamma)
        if back.d_beta is not None:
            given["d_beta"].tensor.copy_(back.d_beta)

    def hopper(self, *operands: Any, config: Any, seed: int, stream: Any, **formats: Any) -> None:
        gemm_hopper_blocks.check_operands(*operands, **formats)
        gemm_hopper_blocks.options(**formats, config=config)
        self.seen.append(f"hopper {formats['out']}")
        a, b, c, a_scale, b_scale, c_scale = operands
        fmt = f"{formats['element']}.{formats['scales']}"
        left, right = codes(a, a_scale, fmt), codes(b, b_scale, fmt)
        if c_scale is None:
            c.tensor.copy_(TWIN.product(left, right, dtype=c.tensor.dtype))
        else:
            out = TensorFormat.parse(formats["out"])
            write(TWIN.coded_product(left, right, out=out, seed=seed), c, c_scale)

    def scaled(self, a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, **given: Any) -> None:
        gemm_scaled.arguments(a, b, c, a_scale, b_scale, **given)
        self.seen.append("triton gemm")
        sides = []
        for x, scale, block in ((a, a_scale, given["a_block"]), (b, b_scale, given["b_block"])):
            high, wide = (n or extent for n, extent in zip(block, x.shape, strict=True))
            grid = scale.double().repeat_interleave(high, 0).repeat_interleave(wide, 1)
            sides.append(x.double() * grid[: x.shape[0], : x.shape[1]])
        c.copy_((sides[0] @ sides[1].t()).float())

    def quantize(
        self,
        x: Any,
        out: Any,
        scales: Any,
        *,
        seed: int | None,
        stored: str,
        codes_t: Any = None,
        scales_t: Any = None,
        **given: Any,
    ) -> None:
        quantize_request(
            x, out, scales, stored=stored, tensor_scale=None, seed=seed, swizzled=False,
            codes_t=codes_t, scales_t=scales_t, **given,
        )  # fmt: skip
        self.seen.append("quantize" if codes_t is None else "quantize both")
        rows, cols = given["block"]
        shape = "tensor" if not rows else f"b{rows}x{cols}" if cols else "row"
        shape = f"mx+{given['rule']}" if stored == "e8m0fnu" else shape
        fmt = TensorFormat.parse(f"{given['element']}.{shape}{'' if seed is None else '+sr'}")
        found = TWIN.quantize(x, fmt, seed=seed or 0)
        assert found.main.scales is not None
        out.copy_(found.main.codes.view(torch.uint8))
        scales.copy_(found.main.scales if stored == "fp32" else found.main.scale_bits)
        if codes_t is not None:
            other = TWIN.quantize(x.t(), fmt).main if rows != cols else None
            turned = found.main.codes.t() if other is None else other.codes
            codes_t.copy_(turned.contiguous().view(torch.uint8))
        if scales_t is not None:
            if other is None:
                scales_t.copy_(found.main.scales.t())
            else:
                assert other.scales is not None
                scales_t.copy_(other.scales if stored == "fp32" else other.scale_bits)

    def dequantize(self, x: Any, scales: Any, out: Any, *, stored: str, **given: Any) -> None:
        dequantize_request(
            x, scales, out, stored=stored, tensor_scale=None, swizzled=False, **given
        )
        self.seen.append("dequantize")
        rows, cols = given["block"]
        fmt = TensorFormat.parse(f"{given['element']}.{f'b{rows}x{cols}' if rows else 'tensor'}")
        if stored == "e8m0fnu":
            fmt = TensorFormat.parse(f"{given['element']}.mx")
            scales = 2.0 ** (scales.float() - 127)
        values = x.view(CODE_DTYPES.get(given["element"], torch.uint8))
        found = Codes(main=QuantizedTensor(codes=values, scales=scales, format=fmt))
        out.copy_(found.dequantize(out.dtype))

    def transpose(self, x: torch.Tensor, out: torch.Tensor, *, config: Any) -> None:
        self.seen.append("transpose")
        assert (out.shape, x.is_contiguous()) == (x.t().shape, True)
        out.copy_(x.t())


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    made = Launches()
    for module in (backend_module, products_module):
        monkeypatch.setattr(module, "cupy_view", view)
    monkeypatch.setattr(CudaBackend, "_stream", lambda self: None)
    monkeypatch.setattr(CudaBackend, "attend", ReferenceBackend.attend)
    monkeypatch.setattr(CudaBackend, "attend_backward", ReferenceBackend.attend_backward)
    for module, stand_in in (
        (dataflow_blocks, made.blocks),
        (dataflow_rows, made.rows),
        (gemm_hopper_blocks, made.hopper),
        (gemm_scaled, made.scaled),
        (quantize_tiles, made.quantize),
        (dequantize_tiles, made.dequantize),
        (transpose_codes, made.transpose),
    ):
        monkeypatch.setattr(module, "launch", stand_in)
    return made


def cuda() -> CudaBackend:
    return CudaBackend(CPU, limits=LIMITS)


def trained(backend: ReferenceBackend, recipe: str, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = TransformerBlock(64, 4, training_runtime(recipe, backend=backend, seed=3), **options)
    x = normal(2, 40, 64, dtype=torch.bfloat16).requires_grad_()
    y = model(x)
    y.float().pow(2).mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {"y": y.detach(), "x": x.grad}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("jetfire", {"bias": False}),
        ("jetfire", {"dropout": 0.1}),
        ("jetfire-64", {"bias": False, "norm": "rmsnorm", "feed_forward": "swiglu"}),
        ("jetfire-128", {"bias": False, "feed_forward": "silu"}),
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
    assert launches.seen.count("hopper int8.b32x32") == 4
    assert launches.seen.count("hopper int8.b32x32+sr") == 4
    assert launches.seen.count("hopper fp32") == 4
    assert backend.unserved == {}


@pytest.mark.parametrize("tokens", [64, 40])
def test_a_blocks_passes_over_memory(tokens: int, launches: Launches) -> None:
    """Every launch of a step; transposed: 4 weights, 4 inputs, and the gradient behind GELU."""
    torch.manual_seed(0)
    run = training_runtime("jetfire", backend=cuda())
    model = TransformerBlock(64, 4, run, bias=False)
    x = normal(1, tokens, 64, dtype=torch.bfloat16).requires_grad_()
    y = model(x)
    forward, launches.seen = launches.seen, []
    y.backward(normal(1, tokens, 64, seed=1, dtype=torch.bfloat16))
    fits = tokens % 16 == 0  # else the transpose of the codes would be no operand
    # Two branches join the stream, and queries, keys and values are read.
    assert forward.count("dequantize") == 3
    assert forward.count("quantize") == 4 + 3  # weights; stream twice, attention's output
    # q, k, v, attention's output and its gradient; what the norms give back to the stream.
    assert launches.seen.count("dequantize") == 3 + 2
    assert launches.seen.count("quantize both") == (3 if fits else 0)
    assert launches.seen.count("quantize") == (0 if fits else 3)
    assert launches.seen.count("transpose") == (9 if fits else 12)


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
        kind = "bf16" if block is model else "fp32"
        assert launches.seen.count(f"hopper {kind}") == 4
        grads.append([p.grad for name, p in block.named_parameters() if p.ndim == 2])
    for narrow, exact in zip(*grads, strict=True):
        assert narrow is not None
        assert exact is not None
        assert torch.equal(narrow, exact.bfloat16())


def test_codes_of_128_come_from_fp32_products(launches: Launches) -> None:
    trained(cuda(), "jetfire-128", bias=False)
    assert {s for s in launches.seen if s.startswith("hopper")} == {"hopper fp32"}


EMULATED = ("mxfp6-e3m2", "mxfp6-e2m3", "mxfp4", "mxfp4-w-mxfp6-a", "int4-tensor")
PRODUCTS = [name for name in RECIPES if name[:3] != "jet" and name != "int8-fallback"]


@pytest.mark.parametrize("recipe", PRODUCTS)
def test_products_of_the_other_recipes(recipe: str, launches: Launches) -> None:
    grads = []
    for backend in (TWIN, cuda()):
        torch.manual_seed(0)
        layer = convert(torch.nn.Linear(256, 64), recipe, backend=backend).model
        x = normal(48, 256, dtype=torch.bfloat16).requires_grad_()
        y = layer(x)
        y.backward(normal(48, 64, seed=1, dtype=torch.bfloat16))
        grads.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for expected, found in zip(*grads, strict=True):
        if recipe == "int4-tensor":  # emulated, and codes under an fp32 scale are rounded to bf16
            assert float((found - expected).norm() / expected.norm()) < 2**-8
        else:
            torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-3)
    multiplied = [s for s in launches.seen if "gemm" in s or "hopper" in s]
    emulated = recipe in EMULATED
    assert bool(multiplied) == (recipe[:4] != "bf16" and not emulated)
    unserved = layer.runtime.backend(CPU).unserved
    assert any(what.startswith("gemm") for what in unserved) == emulated
    assert not any("transposed" in what for what in unserved)


@pytest.mark.parametrize("fmt", ["e4m3fn.mx", "e5m2.mx+rceil", "mxint8.mx+sr"])
def test_codes_under_e8m0_scales_come_from_the_kernel(fmt: str, launches: Launches) -> None:
    """A row of zeros, one of the least numbers, one with a NaN: scales of 2^-127 and NaN."""
    backend, out = cuda(), TensorFormat.parse(fmt)
    x = normal(48, 96)
    x[0], x[1], x[2, 5] = 0.0, 1e-38, float("nan")
    found, expected = (b.quantize(x, out, seed=7).main for b in (backend, TWIN))
    assert torch.equal(found.bits, expected.bits)
    assert found.scales is not None
    assert expected.scales is not None
    torch.testing.assert_close(found.scales, expected.scales, rtol=0, atol=0, equal_nan=True)
    assert found.scales.stride() == expected.scales.stride()
    values = backend.dequantize(Codes(main=found), torch.float32)
    torch.testing.assert_close(values, expected.dequantize(), rtol=0, atol=0, equal_nan=True)
    assert launches.seen == ["quantize", "dequantize"]
    assert backend.unserved == {}


@pytest.mark.parametrize("recipe", ["deepseek-fp8", "mxfp8-e4m3"])
def test_both_directions_of_blocks_along_a_row_take_one_pass(
    recipe: str, launches: Launches
) -> None:
    backend = cuda()
    layer = convert(torch.nn.Linear(256, 64), recipe, backend=backend).model
    layer(normal(48, 256).requires_grad_()).backward(normal(48, 64, seed=1))
    # Input, gradient, and weights under MX; DeepSeek's weights have square blocks.
    square = recipe == "deepseek-fp8"
    assert launches.seen.count("quantize both") == (2 if square else 3)
    assert launches.seen.count("quantize") == (1 if square else 0)
    assert backend.unserved == {}


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


def test_vectors_are_fp32_whatever_the_default_dtype(launches: Launches) -> None:
    x, gamma = coded(64, 96).codes, torch.ones(96)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = cuda().normalize("rmsnorm", x, gamma, None, epsilon=1e-5, out=x.format)
    finally:
        torch.set_default_dtype(before)
    assert found.variance.dtype is torch.float32


@pytest.mark.parametrize("width", [32, 44])
def test_flash_attention_takes_the_operands_that_it_is_given(width: int) -> None:
    backend = cuda()
    q, k, v = (torch.empty(2, 4, 64, width, dtype=torch.bfloat16, device="meta") for _ in range(3))
    found = backend.attend(q, k, v, causal=True)
    assert (found.out.shape, found.log_sum.shape) == (q.shape, (2, 4, 64))
    grads = backend.attend_backward(torch.empty_like(q), q, k, v, found, causal=True)
    assert [g.shape for g in grads] == [q.shape] * 3


@pytest.mark.parametrize("width", [20, 264])
def test_heads_of_any_width_attend_as_torch_has_it(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash attention takes multiples of 8 up to 256: the CPU's stands in for the GPU's."""
    ours, widths = torch.ops.aten, []

    class Stand:
        @staticmethod
        def forward(q: torch.Tensor, k: Any, v: Any, drop: float, causal: bool, *, scale: float):  # type: ignore[no-untyped-def]
            widths.append(q.shape[-1])
            return ours._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, drop, causal, scale=scale
            )

    monkeypatch.setattr(ours, "_scaled_dot_product_flash_attention", Stand.forward, raising=False)
    backend = cuda()
    q, k, v = (normal(1, 2, 16, width, seed=s) for s in range(3))
    found = backend.attend(q, k, v, causal=True).out
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert widths == ([24] if width == 20 else [])
    assert ("attention" in backend.unserved) == (width == 264)


TUNED = "gemm:512x512x512:jetfire:int8.b32x32"


def test_a_tuned_configuration_comes_before_the_default() -> None:
    problem, family = parse_problem(TUNED), kernel("hopper_block_gemm")
    space = family.legal_space(problem, LIMITS).accepted
    tuned = Choice(family="hopper_block_gemm", config=space.config(len(space) - 1))
    assert tuned.config != family.default(problem, LIMITS)
    choices = Choices(LIMITS, {TUNED: tuned})
    assert choices.of(problem) == tuned
    other = choices.of(problem.resized(256, 512, 512))
    assert isinstance(other, Choice)
    assert other.config == family.default(problem.resized(256, 512, 512), LIMITS)


def test_refuses_a_tuned_configuration_that_does_not_fit() -> None:
    legal = kernel("triton_transpose")
    config = legal.default(parse_problem("transpose:64x64:int8"), LIMITS)
    with pytest.raises(
        ValueError, match="triton_transpose is not launched here, hopper_block_gemm"
    ):
        Choices(LIMITS, {TUNED: Choice(family="triton_transpose", config=config)})
    a100 = load_gpu("a100").limits
    found = Choices(a100).of(parse_problem(TUNED))
    assert isinstance(found, NoKernel)
    assert "hopper_block_gemm" in found.reason
