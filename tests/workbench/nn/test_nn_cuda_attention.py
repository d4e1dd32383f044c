"""The attention core of the CUDA backend, on devices that are not there."""

import pytest
import torch
from cuda_stand_ins import cuda
from nn_cases import normal

from workbench.nn import cuda_backend as backend_module
from workbench.nn import fused_attention
from workbench.nn.fused_attention import FusedKernel, chosen_kernel

#: What torch's dispatcher answers: FlashAttention, cuDNN.
CHOICES = {1: FusedKernel.FLASH_2, 3: FusedKernel.CUDNN}


def choosing(monkeypatch: pytest.MonkeyPatch, choice: int) -> None:
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_, **__: choice)


def heads(width: int) -> list[torch.Tensor]:
    return [torch.empty(2, 4, 64, width, dtype=torch.bfloat16, device="meta") for _ in range(3)]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("width", [32, 44])
def test_a_fused_kernel_takes_the_operands_that_it_is_given(
    width: int, choice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing(monkeypatch, choice)
    backend = cuda()
    q, k, v = heads(width)
    found = backend.attend(q, k, v, causal=True)
    assert found.kernel is CHOICES[choice]
    assert (found.out.shape, found.log_sum.shape[:3]) == (q.shape, (2, 4, 64))
    choosing(monkeypatch, 4 - choice)  # the one that went forward goes back
    called: list[str] = []
    for kernel, name in (
        (FusedKernel.FLASH_2, "_scaled_dot_product_flash_attention_backward"),
        (FusedKernel.CUDNN, "_scaled_dot_product_cudnn_attention_backward"),
    ):
        operator = getattr(torch.ops.aten, name)

        def counted(*given: object, operator=operator, kernel=kernel, **rest: object):  # type: ignore[no-untyped-def]
            called.append(kernel.value)
            return operator(*given, **rest)

        monkeypatch.setattr(torch.ops.aten, name, counted)
    grads = backend.attend_backward(torch.empty_like(q), q, k, v, found, causal=True)
    assert [g.shape for g in grads] == [q.shape] * 3
    assert called == [CHOICES[choice].value]


def test_cudnn_serves_the_widths_of_its_gradients_and_nothing_deterministic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choosing(monkeypatch, 3)
    how = {"causal": True, "scale": 1.0}
    assert chosen_kernel(*heads(128), **how) is FusedKernel.CUDNN
    assert chosen_kernel(*heads(136), **how) is FusedKernel.FLASH_2
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert chosen_kernel(*heads(128), **how) is FusedKernel.FLASH_2


@pytest.mark.parametrize("lies", ["as the output", "in a wider matrix", "an element further"])
def test_cudnn_gets_gradients_as_its_output_lies(
    lies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch keeps plans by the layout of queries, keys and values: another's would be misread."""
    batch, tokens, heads_, width = 2, 8, 4, 16
    shape = (batch, tokens, heads_, width)

    def laid(matrix: torch.Tensor) -> torch.Tensor:
        return matrix.view(batch, tokens, heads_, width).transpose(1, 2)

    out = laid(torch.randn(batch * tokens, heads_ * width).bfloat16())
    flat = torch.randn(batch * tokens, 2 * heads_ * width).bfloat16()
    dy = {
        "as the output": laid(flat[:, : heads_ * width].contiguous()),
        "in a wider matrix": laid(flat[:, heads_ * width :]),
        "an element further": laid(flat.flatten()[1 : 1 + out.numel()].view(-1, heads_ * width)),
    }[lies]
    seen: list[torch.Tensor] = []

    def operator(grad: torch.Tensor, *given: torch.Tensor, **_: object) -> list[torch.Tensor]:
        seen.append(grad)
        return [torch.empty(shape)] * 3

    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_cudnn_attention_backward", operator)
    fused_attention.fused_backward(
        *(FusedKernel.CUDNN, dy, out, out, out, out, torch.empty(batch, heads_, tokens)),
        causal=True,
        scale=1.0,
    )
    assert (seen[0] is dy) == (lies == "as the output")
    assert seen[0].stride() == out.stride()
    assert seen[0].storage_offset() % 8 == 0
    assert torch.equal(seen[0], dy)


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_what_is_not_cudnn_is_flash_attention(choice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choosing(monkeypatch, choice)
    assert chosen_kernel(*heads(64), causal=False, scale=1.0) is FusedKernel.FLASH_2


def test_what_a_twin_attended_to_has_no_fused_backward_pass() -> None:
    q, k, v = heads(64)
    found = backend_module.Attended(out=q, log_sum=torch.empty(2, 4, 64, device="meta"))
    with pytest.raises(ValueError, match="no fused kernel attended to"):
        cuda().attend_backward(q, q, k, v, found, causal=True)


@pytest.mark.parametrize("width", [20, 264])
def test_heads_of_any_width_attend_as_torch_has_it(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused kernels take multiples of 8 up to 256: the CPU's stands in for the GPU's."""
    widths = []

    def stand_in(
        kernel: FusedKernel,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert kernel is FusedKernel.FLASH_2  # torch's answer on a CPU
        widths.append(q.shape[-1])
        on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, log_sum = on_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, log_sum

    monkeypatch.setattr(backend_module, "fused_forward", stand_in)
    backend = cuda()
    q, k, v = (normal(1, 2, 16, width, seed=s) for s in range(3))
    found = backend.attend(q, k, v, causal=True).out
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert widths == ([24] if width == 20 else [])
    assert ("attention" in backend.unserved) == (width == 264)
