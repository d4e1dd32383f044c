"""Converted models under ``torch.compile``: the numbers of eager mode, compiled once."""

import copy

import pytest
import torch
from compile_cases import (
    FEW,
    IN_GRAPH,
    OUTSIDE,
    Counting,
    Model,
    Training,
    assert_same,
    compare,
    compilations,
    fresh,
    made,
    runtime_of,
)
from cuda_stand_ins import Launches, cuda, launches
from nn_cases import PlainSgd, normal, runtime
from torch import nn

from workbench.nn import (
    LowPrecisionAdamW,
    StepGuard,
    TransformerBlock,
    convert,
    load_training_state,
    training_state,
)

__all__ = ["fresh", "launches"]

#: Torch's compiler asks every tensor that it meets between two graphs for its gradient.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "backend"),
    [(recipe, "aot_eager") for recipe in IN_GRAPH] + [(recipe, "inductor") for recipe in FEW],
)
@pytest.mark.usefixtures("fresh")
def test_a_model_is_one_graph(recipe: str, backend: str) -> None:
    found = compare(recipe, backend, fullgraph=True)
    assert found.compiled[0][1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8-row", "mxfp8-e4m3", "jetfire"])
@pytest.mark.usefixtures("fresh")
def test_kernels_are_launched_in_compiled_models(recipe: str, launches: Launches) -> None:
    wanted, model = made(recipe, backend=cuda()), made(recipe, backend=cuda())
    eager = Training(wanted).run(wanted)
    found = Training(model).run(torch.compile(model, backend="inductor"))
    assert_same(found.found, eager.found)
    assert len(set(found.compiled)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OUTSIDE)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.usefixtures("fresh")
def test_other_recipes_stay_outside(recipe: str, backend: str) -> None:
    compare(recipe, backend, fullgraph=False)
    model = made(recipe)
    with pytest.raises(RuntimeError, match=r"QuantizedLinear\._on_codes"):
        torch.compile(model, backend=backend, fullgraph=True)(normal(2, 32, 64))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8-row", "jetfire", "fp8-lm"])
@pytest.mark.usefixtures("fresh")
def test_many_layers_reach_no_limit_of_the_compiler(recipe: str) -> None:
    """It gives a function up after eight compilations."""
    compare(recipe, "aot_eager", fullgraph=False, parts=12)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8-row", "jetfire"])
@pytest.mark.usefixtures("fresh")
def test_parts_that_are_compiled_by_themselves_share_a_graph(recipe: str) -> None:
    wanted, model = made(recipe, parts=12), made(recipe, parts=12)
    eager = Training(wanted).run(wanted)
    for part in model.get_submodule("parts").children():
        part.compile(backend="aot_eager")
    found = Training(model).run(model)
    assert_same(found.found, eager.found)
    assert len(set(found.compiled)) == 1
    assert found.compiled[0][1] == (1 if recipe == "int8-row" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.usefixtures("fresh")
def test_compiled_models_quantize_weights_once_a_step(backend: str) -> None:
    """GPT-2's layer too, whose product reads a view of the weight."""
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    counting = Counting()
    parts = (Conv1D(96, 64), nn.ReLU(), nn.Linear(96, 48))
    model = convert(nn.Sequential(*parts), "int8-tensor", backend=counting).model
    compiled, optimizer = torch.compile(model, backend=backend, fullgraph=True), PlainSgd(model)
    for _ in range(3):
        counting.seen.clear()
        for batch in range(2):
            compiled(normal(5, 64, seed=batch)).sum().backward()
        assert [counting.seen.count(shape) for shape in ((96, 64), (48, 96))] == [1, 1]
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.usefixtures("fresh")
def test_steps_of_a_compiled_optimizer_reach_the_codes(fused: bool) -> None:
    model = made("int8-row")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for seed in range(3):
        x = normal(2, 32, 64, seed=seed)
        compiled(x).pow(2).mean().backward()
        step()
        optimizer.zero_grad()
        with torch.no_grad():
            assert torch.equal(compiled(x), copy.deepcopy(model)(x))


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_layers_of_one_tensor_quantize_it_once() -> None:
    counting = Counting()
    model = made("int8-tensor", backend=counting, parts=1)
    torch.compile(model, backend="aot_eager", fullgraph=True)(normal(2, 5, 64))
    assert counting.seen.count((10, 64)) == 2  # what q and k read, and what out reads


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_further_models_share_a_graph() -> None:
    counted = []
    for _ in range(3):
        model = made("int8-row")
        Training(model).run(torch.compile(model, backend="aot_eager", fullgraph=True), steps=1)
        counted.append(compilations()[1])
    assert counted == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8-row", "mxint8", "jetfire"])
@pytest.mark.usefixtures("fresh")
def test_what_is_computed_again_draws_as_it_does_in_eager_mode(recipe: str) -> None:
    compare(recipe, "aot_eager", fullgraph=False, again=True)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8-row", "mxfp8-e4m3"])
@pytest.mark.usefixtures("fresh")
def test_tokens_of_any_number(recipe: str) -> None:
    wanted, model = made(recipe), made(recipe)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (32, 48, 5, 33, 52, 36, 41, 64, 7):
        outputs = []
        for call in (wanted, compiled):
            x = normal(2, rows, 64, seed=rows).requires_grad_()
            y = call(x)
            y.pow(2).mean().backward()
            assert x.grad is not None
            outputs.append([y.detach(), x.grad])
        assert_same(outputs[1], outputs[0])
    # Not for every number: one block or more, whole blocks or not.
    assert compilations()[1] <= 4


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_evaluation_under_autocast_of_frozen_and_tied_weights() -> None:
    def prepared() -> nn.Module:
        torch.manual_seed(0)
        model = Model()
        model.parts[1].q.weight = model.parts[0].q.weight  # type: ignore[union-attr,index]
        model.parts[0].k.weight.requires_grad_(False)  # type: ignore[union-attr,index]
        model.parts[1].out.requires_grad_(False)  # type: ignore[union-attr]
        return convert(model, "int8-row").model

    wanted, model = prepared(), prepared()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager, found = Training(wanted).run(wanted), Training(model).run(compiled)
        assert_same(found.found, eager.found)
        drawn = runtime_of(model).seeds.count
        with torch.no_grad():
            assert torch.equal(compiled(normal(2, 32, 64)), wanted(normal(2, 32, 64)))
    assert runtime_of(model).seeds.count == drawn


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_checkpoint_goes_on_in_a_graph() -> None:
    model = made("int8-row")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    Training(model).run(compiled, steps=2)
    state = copy.deepcopy(training_state(model))
    wanted = Training(model).run(compiled, steps=2).found
    before = compilations()
    load_training_state(model, state)
    assert_same(Training(model).run(compiled, steps=2).found, wanted)
    assert compilations() == before
    other = made("int8-row")
    load_training_state(other, state)
    assert_same(Training(other).run(other, steps=2).found, wanted)


class Many(nn.Module):
    """More kinds of layers than the compiler compiles one function for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)
        self.gelu, self.silu, self.drop = nn.GELU(), nn.SiLU(), nn.Dropout(0.1)
        self.last = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(self.silu(self.gelu(self.norm(self.first(x)))))
        y: torch.Tensor = self.last(hidden + x)
        return y


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Model, Many])
@pytest.mark.parametrize("recipe", ["int8-row", "jetfire", "fp8-lm"])
@pytest.mark.usefixtures("fresh")
def test_a_whole_step_under_the_compiler(recipe: str, kind: type[nn.Module]) -> None:
    """Backward passes and optimisers run in Python within it, and are left alone."""

    def steps(compiled: bool) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
        torch.manual_seed(0)
        model = convert(kind(), recipe, seed=5).model
        optimizer = LowPrecisionAdamW(model.parameters(), lr=1e-2, seed=2)
        guard = StepGuard(model, optimizer, max_norm=1.0)

        def step(x: torch.Tensor) -> torch.Tensor:
            y = model(x)
            y.float().pow(2).mean().backward()
            guard.step()
            model.zero_grad()
            kept: torch.Tensor = y.detach()
            return kept

        call = torch.compile(step, backend="aot_eager") if compiled else step
        found, counted = [], []
        for seed in range(5):
            found.append(call(normal(2, 32, 64, seed=seed)).clone())
            counted.append(compilations())
        return found, counted

    wanted, _ = steps(False)
    found, counted = steps(True)
    assert_same(found, wanted)
    assert len(set(counted)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_blocks_stay_outside() -> None:
    def blocks() -> nn.Module:
        torch.manual_seed(0)
        run = runtime("jetfire", seed=1)
        return nn.Sequential(*(TransformerBlock(64, 4, run, dropout=0.1) for _ in range(10)))

    found = []
    for compiled in (False, True):
        model = blocks()
        torch.manual_seed(3)
        call = torch.compile(model, backend="inductor") if compiled else model
        found.append(Training(model).run(call, steps=3))
    assert_same(found[1].found, found[0].found)
    assert len(set(found[1].compiled)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_what_reads_codes_gets_their_numbers() -> None:
    """A layer that is kept behind one in codes: torch's own kernel, of the same numbers."""

    def model() -> nn.Module:
        torch.manual_seed(0)
        parts = (nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Softmax(-1))
        return convert(nn.Sequential(*parts), "jetfire").model

    wanted, compiled = model(), model()
    eager = Training(wanted).run(wanted)
    found = Training(compiled).run(torch.compile(compiled, backend="inductor"))
    assert_same(found.found, eager.found)
    assert len(set(found.compiled)) == 1
