"""What a block's training step allocates at the size that it is compared with bf16 at."""

from typing import Any

import pytest
import torch
from cuda_stand_ins import LIMITS, view
from live_bytes import LiveBytes

from tiles.kernels.cuda import (
    dataflow_blocks,
    dataflow_rows,
    gemm_hopper,
    gemm_hopper_blocks,
    quantize_blocks,
)
from tiles.kernels.triton import (
    activation_tiles,
    dequantize_tiles,
    norm_gradient,
    placed_tiles,
    quantize_tiles,
    residual_tiles,
    rounded_tiles,
    transpose_codes,
    turned_tiles,
)
from workbench.nn import (
    TransformerBlock,
    cuda_assembly,
    cuda_dataflow,
    cuda_products,
    linear,
    runtime,
    training_runtime,
)
from workbench.nn.cuda_backend import CudaBackend

META = torch.device("meta")
MIB = 2**20
#: Bytes that bf16 in eager torch allocated there above parameters and gradients (docs/networks.md),
#: over 1.49, by which Jetfire's authors found their block smaller.
ASKED = 946 * MIB


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device=META)


def peak(monkeypatch: pytest.MonkeyPatch, recipe: str, **options: Any) -> tuple[int, int]:
    """Most bytes alive, forward and backward, of 8 x 1024 tokens; and those behind forward."""
    for module in (cuda_assembly, cuda_dataflow, cuda_products):
        monkeypatch.setattr(module, "cupy_view", view)
    for module in (linear, runtime):  # torch knows no autocast on meta
        monkeypatch.setattr(module, "dtype_behind", lambda x: x.dtype)
    monkeypatch.setattr(CudaBackend, "_stream", lambda self: None)
    for launcher in (dataflow_blocks, dataflow_rows, gemm_hopper, gemm_hopper_blocks,
                     dequantize_tiles, quantize_tiles, transpose_codes,
                     activation_tiles, norm_gradient, placed_tiles, quantize_blocks,
                     residual_tiles, rounded_tiles, turned_tiles):  # fmt: skip
        monkeypatch.setattr(launcher, "launch", lambda *_, **__: None)
    backend = CudaBackend(META, limits=LIMITS)
    run = training_runtime(recipe, backend=backend, **options)
    block = TransformerBlock(4096, 64, run, bias=False).bfloat16().to(META)
    x, dy = meta(8, 1024, 4096).requires_grad_(), meta(8, 1024, 4096)
    standing = [x, *block.parameters()]
    for tensor in standing:
        tensor.grad = torch.empty_like(tensor)
    with LiveBytes(dy, *standing, *(t.grad for t in standing if t.grad is not None)) as live:
        y = block(x)
        forward = live.live
        y.backward(dy)
    assert backend.unserved == {}
    return live.peak, forward


@pytest.mark.parametrize(
    "recipe",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in ("jetfire", "jetfire-64")), "jetfire-128"],
)
def test_a_step_allocates_what_is_asked_above_parameters_and_gradients(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches take nothing of their own but attention's sums, 32 MiB where much less is alive."""
    most, forward = peak(monkeypatch, recipe)
    assert most <= ASKED
    # 16 bytes a feature and token, the output's two, and a hundredth for scales and statistics.
    assert forward == pytest.approx((16 + 2) * 8192 * 4096, rel=0.01)


@pytest.mark.slow
def test_codes_of_weights_cost_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    least, _ = peak(monkeypatch, "jetfire-128")
    kept, _ = peak(monkeypatch, "jetfire-128", keep_weights=True)
    assert (kept - least) / MIB == pytest.approx(12 * 4096**2 / MIB, rel=0.01)


def test_tensors_are_counted_until_they_are_gone() -> None:
    standing = torch.zeros(1000)
    with LiveBytes(standing) as live:
        one = torch.ones(100)
        two = one + standing[:100]
        assert (live.live, live.peak) == (800, 800)
        view_of_it = two.view(10, 10)
        del two, one
        assert (live.live, live.peak) == (400, 800)
        del view_of_it
    assert (live.live, live.peak) == (0, 800)
