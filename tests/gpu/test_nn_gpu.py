"""Blocks, models and steps of training on a GPU's kernels, against the twin on the CPU."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from coded_matrices import TWIN
from torch.utils.checkpoint import checkpoint

from workbench.nn import (
    RECIPES,
    CodedTensor,
    ReferenceBackend,
    TransformerBlock,
    convert,
    training_runtime,
)
from workbench.nn.cuda_backend import CudaBackend

pytestmark = pytest.mark.gpu


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
