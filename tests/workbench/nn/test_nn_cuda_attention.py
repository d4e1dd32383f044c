"""The attention core of the CUDA backend, on devices that are not there."""

import pytest
import torch
from cuda_stand_ins import cuda
from nn_cases import normal

from workbench.nn import cuda_backend as backend_module


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
    widths = []

    def stand_in(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        widths.append(q.shape[-1])
        on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, log_sum = on_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, log_sum

    monkeypatch.setattr(backend_module, "flash_forward", stand_in)
    backend = cuda()
    q, k, v = (normal(1, 2, 16, width, seed=s) for s in range(3))
    found = backend.attend(q, k, v, causal=True).out
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert widths == ([24] if width == 20 else [])
    assert ("attention" in backend.unserved) == (width == 264)
