"""The layers' operators on a GPU's kernels, against the twin that computes on the CPU."""

from typing import Any

import pytest
import torch
from coded_matrices import COLS, FORMATS, ROWS, SEED, TWIN, drawn
from near_codes import assert_near, either_sign, moved

from tiles.formats import TensorFormat
from tiles.kernels.dataflow_reference import Inputs, outcome
from workbench.nn.cuda_backend import CudaBackend
from workbench.nn.fused_attention import FusedKernel

pytestmark = pytest.mark.gpu


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


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("width", [64, 128, 20])
@pytest.mark.parametrize("causal", [True, False])
def test_attention(causal: bool, width: int, cudnn: bool, kernels: CudaBackend) -> None:
    """Queries, keys and values are parts of one matrix, as in a block."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    try:
        kernel = _check_attention(causal, width, kernels)
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    on_hopper = torch.cuda.get_device_capability() == (9, 0)
    assert kernel is (FusedKernel.CUDNN if cudnn and before and on_hopper else FusedKernel.FLASH_2)


def _check_attention(causal: bool, width: int, kernels: CudaBackend) -> FusedKernel | None:
    """The kernel that computed both directions."""
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
    log_sum = found.log_sum.cpu().reshape(expected.log_sum.shape)
    torch.testing.assert_close(log_sum, expected.log_sum, rtol=1e-3, atol=1e-3)
    back = TWIN.attend_backward(dy, *here, expected, causal=causal)
    grads = kernels.attend_backward(dy.cuda(), *there, found, causal=causal)
    # The same numbers in a wider matrix, and an element further.
    wider = torch.cat([dy.cuda(), dy.cuda()], dim=-1)[..., width:]
    further = torch.cat([dy.new_zeros(1), dy.flatten()]).cuda()[1:].view(dy.shape)
    again = [
        kernels.attend_backward(laid, *there, found, causal=causal) for laid in (wider, further)
    ]
    for made in (grads, *again):
        for one, other in zip(made, back, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=5e-2, atol=5e-2)
    return found.kernel


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
        gamma = (torch.rand(COLS, generator=generator) + 0.5).bfloat16()
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
