"""Quantised models under ``torch.compile``: values of codes in one graph, kernels outside of it."""

from typing import Any

import pytest
import torch
from ptq_cases import Encoder, normal, tokens
from torch import nn

import workbench
from tiles.formats import TensorFormat
from workbench.nn import Codes, ReferenceBackend
from workbench.ptq import load

#: Torch's compiler asks every tensor that it meets between two graphs for its gradient.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Launching(ReferenceBackend):
    """As kernels: looks at memory, which a tensor of a tracer has none of."""

    def __init__(self) -> None:
        self.launched = 0

    def product(self, a: Codes, b: Codes, **rest: Any) -> torch.Tensor:
        assert not torch.compiler.is_compiling()
        assert a.main.codes.data_ptr()
        self.launched += 1
        return super().product(a, b, **rest)

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        assert not torch.compiler.is_compiling()
        return super().quantize(x, out, seed=seed, share=share)


def layers() -> nn.Module:
    """What Inductor computes as torch does."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)).eval()


def compiled_runs(
    model: nn.Module, batches: list[torch.Tensor], **options: Any
) -> tuple[bool, list[tuple[int, int]]]:
    """Whether outputs are those without the compiler, and frames and graphs after every batch."""
    import torch._dynamo

    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled, same, seen = torch.compile(model, **options), True, []
    with torch.no_grad():
        for batch in batches:
            same = torch.equal(compiled(batch), model(batch)) and same
            seen.append((counters["frames"]["total"], counters["stats"]["unique_graphs"]))
    return same, seen


def test_a_given_backend_and_a_gpu_keep_a_model_out_of_graphs(tmp_path: Any) -> None:
    calibration = [normal(4, 32, seed=seed) for seed in range(2)]
    given = workbench.quantize(
        layers(), "int8-row", calibration=calibration, backend=ReferenceBackend()
    )
    plain = workbench.quantize(layers(), "int8-row", calibration=calibration)
    path = plain.save(tmp_path / "model.safetensors")
    again = load(layers(), path, "int8-row", backend=ReferenceBackend())
    for done, expected in ((given, True), (again, True), (plain, False)):
        launches: Any = done.model.get_submodule("0").forward
        assert launches.launches(((normal(4, 32),), {})) is expected
        assert launches.launches((([torch.empty(2, device="meta")],), {})) is True


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp8-ptq-e4m3", "int8-row", "mxfp4", "w4a16-g128"])
def test_values_of_codes_are_one_graph(recipe: str) -> None:
    batches = [normal(4, 32, seed=seed) for seed in range(5)]
    done = workbench.quantize(layers(), recipe, calibration=batches[:2])
    same, seen = compiled_runs(done.model, batches, backend="inductor", fullgraph=True)
    assert same
    assert {graphs for _, graphs in seen} == {1}
    assert len(set(seen)) == 1


@pytest.mark.slow
def test_a_model_with_functions_is_one_graph() -> None:
    """Inductor's softmax and norms are its own: the graph is run as torch would."""
    batches = [tokens(3, 8, seed=seed) for seed in range(5)]
    done = workbench.quantize(Encoder(), "fp8-ptq-e4m3", calibration=batches[:2])
    same, seen = compiled_runs(done.model, batches, backend="aot_eager", fullgraph=True)
    assert same
    assert {graphs for _, graphs in seen} == {1}
    assert not done.unmet


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_kernels_are_launched_outside(backend: str) -> None:
    batches = [tokens(3, 8, seed=seed) for seed in range(5)]
    kernels = Launching()
    done = workbench.quantize(Encoder(), "fp8-ptq-e4m3", calibration=batches[:2], backend=kernels)
    kernels.launched = 0  # those that measured sensitivities
    with torch.no_grad():
        done.model(batches[0])
    once, kernels.launched = kernels.launched, 0
    same, seen = compiled_runs(done.model, batches, backend=backend)
    assert same
    assert once
    assert kernels.launched == 2 * len(batches) * once
    assert {graphs for _, graphs in seen} == {0}
    assert len(set(seen)) == 1
