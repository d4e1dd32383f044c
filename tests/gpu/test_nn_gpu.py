"""The training layers on a GPU's kernels, against the twin that computes on the CPU."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from near_codes import assert_near, either_sign, moved
from torch.utils.checkpoint import checkpoint

from tiles.formats import TensorFormat
from tiles.kernels.dataflow_reference import Inputs, outcome
from workbench.nn import (
    RECIPES,
    CodedTensor,
    Codes,
    ReferenceBackend,
    TransformerBlock,
    convert,
    training_runtime,
)
from workbench.nn.cuda_backend import CudaBackend

pytestmark = pytest.mark.gpu

FORMATS = ["int8.b32x32", "int8.b64x64", "int8.b128x128"]
TWIN = ReferenceBackend()
SEED = 0x9E3779B97F4A7C15
ROWS, COLS = 512, 1024


@pytest.fixture(scope="module")
def kernels() -> CudaBackend:
    pytest.importorskip("cupy")
    return CudaBackend(torch.device("cuda", torch.cuda.current_device()))


def drawn(fmt: str, seed: int, rows: int = ROWS, cols: int = COLS) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    return TWIN.quantize(torch.randn(rows, cols, generator=generator), TensorFormat.parse(fmt))


@pytest.mark.parametrize("rounding", ["", "+sr"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_quantises_and_dequantises_to_the_bit(
    fmt: str, rounding: str, kernels: CudaBackend
) -> None:
    kernels = CudaBackend(kernels.device)  # what others left unserved is not asked here
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = TensorFormat.parse(fmt + rounding)
    found = kernels.quantize(x.cuda(), out, seed=SEED)
    expected = TWIN.quantize(x, out, seed=SEED)
    back = moved(found, "cpu").main
    assert torch.equal(back.codes, expected.main.codes)
    assert torch.equal(back.scales, expected.main.scales)  # type: ignore[arg-type]
    for dtype in (torch.bfloat16, torch.float32):
        values = kernels.dequantize(found, dtype).cpu()
        assert torch.equal(values, expected.dequantize(dtype))
    assert kernels.unserved == {}


@pytest.mark.parametrize("fmt", ["e4m3fn.mx", "e5m2.mx", "mxint8.mx+sr"])
def test_quantises_and_dequantises_under_e8m0_scales(fmt: str, kernels: CudaBackend) -> None:
    kernels = CudaBackend(kernels.device)
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16()
    x[0] = 0
    out = TensorFormat.parse(fmt)
    found, expected = kernels.quantize(x.cuda(), out, seed=SEED), TWIN.quantize(x, out, seed=SEED)
    back = moved(found, "cpu").main
    assert torch.equal(back.bits, expected.main.bits)
    assert torch.equal(back.scales, expected.main.scales)  # type: ignore[arg-type]
    assert torch.equal(
        kernels.dequantize(found, torch.bfloat16).cpu(), expected.dequantize(torch.bfloat16)
    )
    assert kernels.unserved == {}


@pytest.mark.parametrize("fmt", [*(f"{one}+sr" for one in FORMATS), "e5m2.tensor"])
def test_both_directions_of_a_gradient_in_one_pass(fmt: str, kernels: CudaBackend) -> None:
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16().cuda()
    out = TensorFormat.parse(fmt)
    found, expected = kernels.quantize_both(x, out, seed=SEED), kernels.quantize(x, out, seed=SEED)
    assert torch.equal(found.main.bits, expected.main.bits)
    assert found.turned is not None
    assert torch.equal(found.turned.bits, expected.main.bits.t())
    assert torch.equal(found.turned.scales, expected.main.scales.t())  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("fmt", ["e4m3fn.b1x128", "e4m3fn.mx", "mxint8.mx"])
def test_both_directions_with_scales_of_their_own_in_one_pass(
    fmt: str, kernels: CudaBackend
) -> None:
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = TensorFormat.parse(fmt)
    found, expected = kernels.quantize_directions(x.cuda(), out), TWIN.quantize_directions(x, out)
    for one, other in ((found.forward, expected.forward), (found.turned, expected.turned)):
        assert one is not None
        assert other is not None
        back = moved(one, "cpu").main
        assert torch.equal(back.bits, other.main.bits)
        assert torch.equal(back.scales, other.main.scales)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_activations(fmt: str, op: str, kernels: CudaBackend) -> None:
    x, dy = drawn(fmt, 1), drawn(fmt, 2)
    there, grad = moved(x, "cuda"), moved(dy, "cuda")
    plain, out = TensorFormat.parse(fmt), TensorFormat.parse(f"{fmt}+sr")
    assert_near(
        kernels.elementwise(op, there, out=plain), TWIN.elementwise(op, x, out=plain), share=0.1
    )
    assert_near(
        kernels.elementwise(f"{op}-bwd", there, dy=grad, out=out, seed=SEED),
        TWIN.elementwise(f"{op}-bwd", x, dy=dy, out=out, seed=SEED),
        share=0.1,
        either=either_sign(f"{op}-bwd", x, dy.dequantize(torch.float64)),
    )


@pytest.mark.parametrize("fmt", FORMATS)
def test_dropout(fmt: str, kernels: CudaBackend) -> None:
    x, out = drawn(fmt, 3), TensorFormat.parse(f"{fmt}+sr")
    rest: dict[str, Any] = {"out": out, "probability": 0.1, "mask_seed": 5, "seed": SEED}
    found = kernels.dropout(moved(x, "cuda"), **rest)
    assert_near(found, TWIN.dropout(x, **rest))


@pytest.mark.parametrize("op", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_norms(fmt: str, op: str, kernels: CudaBackend) -> None:
    x, dy = drawn(fmt, 6), drawn(fmt, 7)
    plain, out = TensorFormat.parse(fmt), TensorFormat.parse(f"{fmt}+sr")
    gamma = torch.rand(COLS, generator=torch.Generator().manual_seed(8)) + 0.5
    beta = torch.ones(COLS) if op == "layernorm" else None
    expected = TWIN.normalize(op, x, gamma, beta, epsilon=1e-5, out=plain)
    shift = None if beta is None else beta.cuda()
    found = kernels.normalize(op, moved(x, "cuda"), gamma.cuda(), shift, epsilon=1e-5, out=plain)
    assert_near(found.y, expected.y)
    torch.testing.assert_close(found.mean.cpu(), expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.variance.cpu(), expected.variance, rtol=1e-5, atol=1e-6)
    rest: dict[str, Any] = {"epsilon": 1e-5, "out": out, "seed": SEED}
    back = TWIN.normalize_backward(op, x, dy, expected.mean, expected.variance, gamma, **rest)
    grads = kernels.normalize_backward(
        op, moved(x, "cuda"), moved(dy, "cuda"), found.mean, found.variance, gamma.cuda(), **rest
    )
    assert_near(grads.dx, back.dx)
    torch.testing.assert_close(grads.d_gamma.cpu(), back.d_gamma, rtol=1e-4, atol=1e-3)
    assert (grads.d_beta is None) == (op == "rmsnorm")
    if grads.d_beta is not None:
        torch.testing.assert_close(grads.d_beta.cpu(), back.d_beta, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("turns", [(False, False), (True, True), (False, True)])
@pytest.mark.parametrize("fmt", FORMATS)
def test_products(fmt: str, turns: tuple[bool, bool], kernels: CudaBackend) -> None:
    shapes = [(COLS, ROWS) if turn else (ROWS, COLS) for turn in turns]
    a, b = (drawn(fmt, seed, *shape) for seed, shape in zip((9, 10), shapes, strict=True))
    there = moved(a, "cuda"), moved(b, "cuda")
    rest: dict[str, Any] = {"turn_a": turns[0], "turn_b": turns[1], "dtype": torch.float32}
    expected = TWIN.product(a, b, **rest)
    found = kernels.product(*there, **rest).cpu()
    # Sums of K / block terms in fp32, each exact: below 2^-18 of the magnitudes' sum.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    if not turns[0]:
        for rounding in ("", "+sr"):
            coded: dict[str, Any] = {
                "out": TensorFormat.parse(fmt + rounding), "turn_b": turns[1], "seed": SEED
            }  # fmt: skip
            assert_near(kernels.coded_product(*there, **coded), TWIN.coded_product(a, b, **coded))


@pytest.mark.parametrize("width", [64, 20])
@pytest.mark.parametrize("causal", [True, False])
def test_attention(causal: bool, width: int, kernels: CudaBackend) -> None:
    """Queries, keys and values are parts of one matrix, as in a block."""
    generator = torch.Generator().manual_seed(11)
    joint = torch.randn(2, 128, 12 * width, generator=generator).bfloat16()
    dy = torch.randn(2, 4, 128, width, generator=generator).bfloat16()

    def parts(x: torch.Tensor) -> list[torch.Tensor]:
        return [one.view(2, 128, 4, width).transpose(1, 2) for one in x.chunk(3, dim=-1)]

    # Parts on the device as well: a copy of each would lie by itself.
    here, there = parts(joint), parts(joint.cuda())
    expected = TWIN.attend(*here, causal=causal)
    found = kernels.attend(*there, causal=causal)
    torch.testing.assert_close(found.out.cpu(), expected.out, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found.log_sum.cpu(), expected.log_sum, rtol=1e-3, atol=1e-3)
    back = TWIN.attend_backward(dy, *here, expected, causal=causal)
    grads = kernels.attend_backward(dy.cuda(), *there, found, causal=causal)
    for one, other in zip(grads, back, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("options", [{"bias": False}, {"feed_forward": "swiglu"}, {"dropout": 0.1}])
@pytest.mark.parametrize("recipe", ["jetfire", "jetfire-64", "jetfire-128"])
def test_a_block(recipe: str, options: dict[str, Any], kernels: CudaBackend) -> None:
    """Codes a step apart move few sums: outputs and gradients agree to parts in a hundred."""
    found = []
    for device, backend in (("cpu", TWIN), ("cuda", kernels)):
        torch.manual_seed(0)
        run = training_runtime(recipe, backend=backend, seed=3)
        model = TransformerBlock(256, 4, run, **options).to(device)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, 128, 256, generator=generator).bfloat16().to(device).requires_grad_()
        y = model(x)
        assert not isinstance(y, CodedTensor)
        y.float().pow(2).mean().backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        found.append({"y": y.detach(), "x": x.grad} | grads)
    for name, expected in found[0].items():
        assert expected is not None
        apart = (found[1][name].cpu().float() - expected.float()).norm()  # type: ignore[union-attr]
        assert float(apart / expected.float().norm()) < 0.05, name


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_converted_model(recipe: str, kernels: CudaBackend) -> None:
    def trained(device: str, backend: ReferenceBackend) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.LayerNorm(256), torch.nn.Linear(256, 512), torch.nn.GELU(),
            torch.nn.Linear(512, 128),
        )  # fmt: skip
        done = convert(model, recipe, backend=backend).model.to(device)
        x = torch.randn(128, 256, generator=torch.Generator().manual_seed(2)).to(device)
        value = done(x).float().pow(2).mean()
        value.backward()
        grads = {name: p.grad.cpu() for name, p in done.named_parameters()}  # type: ignore[union-attr]
        return grads | {"loss": value.detach().cpu()}

    found, expected = trained("cuda", kernels), trained("cpu", TWIN)
    assert float((found["loss"] - expected["loss"]).abs() / expected["loss"]) < 2e-2
    for name, exact in expected.items():
        # A code on the edge of two falls to either side, and steps of the bad recipe are wide.
        most = 0.5 if recipe == "int4-tensor" else 0.1
        assert float((found[name] - exact).norm() / exact.norm()) < most, name


def test_the_example_takes_two_steps(kernels: CudaBackend) -> None:
    example = Path(__file__).parents[2] / "examples" / "train_int8_gpt.py"
    done = subprocess.run(
        [sys.executable, str(example), "--gpu", "--steps", "2"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["bf16", "jetfire"]


def test_training_after_inference_mode_and_under_checkpointing(kernels: CudaBackend) -> None:
    """Gradients of a layer computed again differ by stochastic rounding alone."""

    def gradient(again: bool) -> torch.Tensor:
        torch.manual_seed(0)
        run = training_runtime("jetfire", backend=kernels, seed=3)
        model = TransformerBlock(256, 4, run, dropout=0.5).cuda()
        x = torch.randn(2, 128, 256, generator=torch.Generator().manual_seed(1)).bfloat16().cuda()
        with torch.inference_mode():
            model.eval()(x)
        model.train()
        x.requires_grad_()
        y = checkpoint(model, x, use_reentrant=False) if again else model(x)
        y.float().pow(2).mean().backward()
        assert model.down.weight.grad is not None
        return model.down.weight.grad

    expected = gradient(again=False)
    assert float((gradient(again=True) - expected).norm() / expected.norm()) < 0.05


def test_fused_steps_quantise_weights_anew(kernels: CudaBackend) -> None:
    model = convert(torch.nn.Linear(256, 256), "jetfire", backend=kernels).model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.ones(128, 256, device="cuda")).float().sum().backward()
    optimizer.step()
    codes = model.weight_codes().forward.dequantize()  # type: ignore[operator]
    assert float((codes - model.weight.detach()).abs().max()) < 0.01  # type: ignore[operator]


def stepped(
    kernels: CudaBackend, recipe: str, fused: bool | None, **options: Any
) -> list[torch.Tensor]:
    """Outputs and gradients of three steps, other numbers and keys each."""
    torch.manual_seed(0)
    run = training_runtime(recipe, backend=kernels, seed=3, fused=fused)
    model = TransformerBlock(256, 4, run, **options).bfloat16().cuda()
    found = []
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(2, 128, 256, generator=generator).bfloat16().cuda().requires_grad_()
        y = model(x)
        y.float().pow(2).mean().backward()
        assert x.grad is not None
        found += [y.detach(), x.grad]
    return found + [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("options", [{"bias": False}, {"norm": "rmsnorm", "dropout": 0.1}])
@pytest.mark.parametrize(
    ("recipe", "fused"),
    [("jetfire", None), ("jetfire-64", None), ("jetfire-128", False), ("jetfire-128", True)],
)
def test_repeated_launches_are_the_checked_ones(
    recipe: str, fused: bool | None, options: dict[str, Any], kernels: CudaBackend
) -> None:
    fresh, checked = CudaBackend(kernels.device), CudaBackend(kernels.device)
    checked.repeats = False
    found, expected = (stepped(b, recipe, fused, **options) for b in (fresh, checked))
    kinds = {key[0] for key in fresh._prepared}
    assert {"quantize", "dequantize", "transpose", "launch"} <= kinds
    # Triton's products are launched as before: where the model takes no other, none is kept.
    made = fresh.choices._made
    families = {getattr(made[text], "family", "") for text in made if text.startswith("gemm:")}
    assert ("product" in kinds) == bool(families - {"triton_gemm"})
    for one, other in zip(found, expected, strict=True):
        # FlashAttention adds gradients of queries up in any order.
        apart = float((one.float() - other.float()).norm() / other.float().norm())
        assert apart < 1e-2


@pytest.mark.parametrize("recipe", ["jetfire", "jetfire-128"])
def test_a_captured_step_is_the_eager_one(recipe: str, kernels: CudaBackend) -> None:
    torch.manual_seed(0)
    run = training_runtime(recipe, backend=kernels, seed=3, replayable=True)
    model = TransformerBlock(256, 4, run, bias=False).bfloat16().cuda()
    leaves = [torch.zeros(2, 128, 256, dtype=torch.bfloat16, device="cuda", requires_grad=True)]
    leaves += list(model.parameters())
    dy = torch.randn(2, 128, 256, device="cuda").bfloat16()

    def step() -> list[torch.Tensor]:
        y = model(leaves[0])
        # Without its graph, whose nodes would belong to the stream of the capture.
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    drawn, graph = run.seeds.count, torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in range(2):
        generator = torch.Generator(device="cuda").manual_seed(seed)
        with torch.no_grad():
            leaves[0].normal_(generator=generator)
        graph.replay()
        found = [one.detach().clone() for one in captured]
        run.seeds.count = drawn
        for one, other in zip(found, step(), strict=True):
            apart = float((one.float() - other.float()).norm() / other.float().norm())
            assert apart < 1e-2


@pytest.mark.parametrize("recipe", ["jetfire", "jetfire-128"])
def test_a_step_allocates_less_than_two_thirds_of_bf16(recipe: str, kernels: CudaBackend) -> None:
    """At the size that docs/networks.md has bf16's 1410 MiB for, gradients there before."""
    run = training_runtime(recipe, backend=kernels)
    model = TransformerBlock(4096, 64, run, bias=False).bfloat16().cuda()
    x = torch.randn(8, 1024, 4096, device="cuda").bfloat16().requires_grad_()
    dy = torch.randn(8, 1024, 4096, device="cuda").bfloat16()
    for leaf in (x, *model.parameters()):
        leaf.grad = torch.zeros_like(leaf)
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.backward(model(x), dy)
        torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= 946 * 2**20


@pytest.mark.parametrize("op", ["gelu", "silu", "relu"])
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("rows", [ROWS, 200])
def test_activations_of_gradients_in_numbers(
    rows: int, fmt: str, op: str, kernels: CudaBackend
) -> None:
    kernels = CudaBackend(kernels.device)
    x, out = drawn(fmt, 1, rows), TensorFormat.parse(f"{fmt}+sr")
    dy = torch.randn(rows, COLS, generator=torch.Generator().manual_seed(2)).bfloat16()
    there, grad = moved(x, "cuda"), dy.cuda()
    for seed in (SEED, SEED + 1):  # the second is a repeated launch
        found = kernels.activate_backward(op, there, grad, out=out, seed=seed)
        expected = TWIN.activate_backward(op, x, dy, out=out, seed=seed)
        assert_near(found, expected, share=0.1, either=either_sign(f"{op}-bwd", x, dy))
    assert kernels.unserved == {}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", [(512, 1024), (208, 336)])
def test_a_transposed_view_is_quantised_to_the_bit(
    shape: tuple[int, int], fmt: str, kernels: CudaBackend
) -> None:
    out = TensorFormat.parse(fmt)
    for seed in range(2):  # the second is a repeated launch
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
        found, expected = kernels.quantize(x.cuda().t(), out), TWIN.quantize(x.t(), out)
        back = moved(found, "cpu").main
        assert torch.equal(back.codes, expected.main.codes)
        assert torch.equal(back.scales, expected.main.scales)  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", [f"{one}{end}" for one in FORMATS for end in ("", "+sr")])
def test_a_matrix_in_parts_is_quantised_to_the_bit(fmt: str, kernels: CudaBackend) -> None:
    out = TensorFormat.parse(fmt)
    for seed in range(2):  # the second has repeated launches
        x = torch.randn(512, 768, generator=torch.Generator().manual_seed(seed)).bfloat16()
        expected = TWIN.quantize(x, out, seed=SEED + seed).main
        there, rest = x.cuda(), {"parts": (256, 256), "both": True, "seed": SEED + seed}
        made = kernels.assembly((512, 768), x.dtype, there.device, out, **rest)  # type: ignore[arg-type]
        for row in range(0, 512, 256):
            for col in range(0, 768, 256):
                made.put(there[row : row + 256, col : col + 256], row, col)
        found = made.codes()
        assert found.turned is not None
        assert torch.equal(found.main.codes.cpu(), expected.codes)
        assert torch.equal(found.main.scales.cpu(), expected.scales)  # type: ignore[union-attr, arg-type]
        assert torch.equal(found.turned.codes.cpu(), expected.codes.t())
        assert torch.equal(found.turned.scales.cpu(), expected.scales.t())  # type: ignore[union-attr]


@pytest.mark.parametrize("coded", [False, True], ids=["numbers", "codes"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_sums_and_their_codes_are_the_twins_to_the_bit(
    fmt: str, coded: bool, kernels: CudaBackend
) -> None:
    plain, rounded = TensorFormat.parse(fmt), TensorFormat.parse(f"{fmt}+sr")
    for seed in range(2):  # the second is a repeated launch
        generator = torch.Generator().manual_seed(seed)
        x, other = (torch.randn(ROWS, COLS, generator=generator).bfloat16() for _ in range(2))
        y = TWIN.quantize(other, plain) if coded else other
        there = moved(y, "cuda") if isinstance(y, Codes) else y.cuda()
        for out, both in ((None, False), (plain, False), (rounded, True)):
            if not coded and out is None:
                continue  # torch's own addition
            found = kernels.add(x.cuda(), there, out, both=both, seed=SEED + seed)
            expected = TWIN.add(x, y, out, both=both, seed=SEED + seed)
            assert torch.equal(found[0].cpu(), expected[0])
            if found[1] is None or expected[1] is None:
                assert found[1] is expected[1]
                continue
            back, wanted = moved(found[1], "cpu").main, expected[1].main
            assert torch.equal(back.codes, wanted.codes)
            assert torch.equal(back.scales, wanted.scales)  # type: ignore[arg-type]
            if both:
                assert found[1].turned is not None
                assert torch.equal(found[1].turned.codes.cpu(), wanted.codes.t())
                assert torch.equal(found[1].turned.scales.cpu(), wanted.scales.t())  # type: ignore[union-attr]


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("op", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_norms_of_gradients_in_numbers(
    fmt: str, op: str, added: bool, kernels: CudaBackend
) -> None:
    """Within the reference's bound of an exact kernel and one rounding to bf16."""
    kernels = CudaBackend(kernels.device)
    for seed in range(2):  # the second is a repeated launch
        x = drawn(fmt, 6 + seed, 1200)
        generator = torch.Generator().manual_seed(seed)
        dy, stream = (torch.randn(1200, COLS, generator=generator).bfloat16() for _ in range(2))
        gamma = torch.rand(COLS, generator=generator) + 0.5
        values = x.dequantize(torch.float64)
        mean, variance = values.mean(1).float(), values.var(1, correction=0).float()
        found, *sums = kernels.normalize_gradient(
            op, moved(x, "cuda"), dy.cuda(), mean.cuda(), variance.cuda(), gamma.cuda(),
            epsilon=1e-5, dtype=torch.bfloat16, onto=stream.cuda() if added else None,
        )  # fmt: skip
        exact = outcome(
            f"{op}-bwd",
            Inputs(x=values, other=dy.double(), mean=mean.double(), variance=variance.double(),
                   gamma=gamma.double(), epsilon=1e-5),
        )  # fmt: skip
        wanted = exact.values + stream.double() * added
        bound = exact.error + 2.0**-8 * (wanted.abs() + exact.error) + 2.0**-23 * wanted.abs()
        assert bool(((found.cpu() - wanted).abs() <= bound).all())
        for one, (exactly, error) in zip(sums, exact.vectors.values(), strict=False):
            assert one is not None
            assert bool(((one.cpu() - exactly).abs() <= error).all())
        assert (sums[1] is None) == (op == "rmsnorm")
    assert kernels.unserved == {}
