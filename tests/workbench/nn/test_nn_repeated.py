"""Steps that repeat prepared launches compute what checked launches do."""

from typing import Any

import pytest
import torch
from cuda_stand_ins import TWIN, Launches, cuda, launches, trained
from repeated_launches import Repeated

from workbench.nn import ReferenceBackend, TransformerBlock, training_runtime
from workbench.nn.cuda_backend import CudaBackend

__all__ = ["launches"]


def steps(backend: ReferenceBackend, recipe: str, **options: Any) -> list[torch.Tensor]:
    """Outputs and gradients of three steps with other numbers and keys each."""
    torch.manual_seed(0)
    model = TransformerBlock(64, 4, training_runtime(recipe, backend=backend, seed=3), **options)
    found = []
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(2, 64, 64, generator=generator).bfloat16().requires_grad_()
        y = model(x)
        y.float().pow(2).mean().backward()
        assert x.grad is not None
        found += [y.detach(), x.grad]
    return found + [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("jetfire", {"bias": False}),
        ("jetfire", {"dropout": 0.1, "norm": "rmsnorm"}),
        ("jetfire-128", {"bias": False}),
    ],
    ids=str,
)
def test_steps_that_repeat_launches_are_those_of_the_twin(
    recipe: str, options: dict[str, Any], launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated = Repeated(launches, monkeypatch)
    backend = cuda()
    backend.repeats = True
    expected, found = steps(TWIN, recipe, **options), steps(backend, recipe, **options)
    for wanted, value in zip(expected, found, strict=True):
        assert torch.equal(value, wanted)
    assert repeated.count > 2 * 40  # all of the second step and of the third


def test_without_a_gpu_every_launch_is_checked(launches: Launches) -> None:
    backend: CudaBackend = cuda()
    trained(backend, "jetfire", bias=False)
    assert not backend.repeats
    assert {key[0] for key in backend._prepared} == {"dataflow"}
