"""Converted models under ``torch.compile``: the numbers of eager mode, compiled once.

Inductor's own kernels of what lies between the layers may round otherwise than torch does, so the
models here have sums and ReLU there, which have one result.
"""

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from cuda_stand_ins import Launches, cuda, launches
from nn_cases import PlainSgd, normal, runtime
from torch import nn
from torch.utils.checkpoint import checkpoint

from tiles.formats import TensorFormat
from workbench.nn import (
    RECIPES,
    Codes,
    LowPrecisionAdamW,
    ReferenceBackend,
    SeedStream,
    StepGuard,
    TransformerBlock,
    convert,
    graph_layouts,
    graph_operators,
    load_training_state,
    training_state,
)
from workbench.nn.runtime import Runtime

__all__ = ["launches"]

#: Torch's compiler asks every tensor that it meets between two graphs for its gradient.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
#: Layers are operators of a graph under these; under others the graph ends before them.
IN_GRAPH = [
    name
    for name in RECIPES
    if name not in ("e4m3-tensor-delayed", "fp8-lm", "unit-scaling", "int8-fallback")
    and not name.startswith("jetfire")
]
OUTSIDE = [name for name in RECIPES if name not in IN_GRAPH]
#: One of a format with scales of rows, of blocks and of the whole tensor.
FEW = ("int8-row", "mxfp8-e4m3", "deepseek-fp8", "int8-tensor")


class Part(nn.Module):
    """Layers side by side that read one tensor, and a sum behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(64, 64), nn.Linear(64, 64, bias=False)
        self.act, self.out = nn.ReLU(), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.act(self.q(x) + self.k(x)))


class Model(nn.Module):
    def __init__(self, parts: int = 2, *, again: bool = False) -> None:
        super().__init__()
        self.parts, self.again = nn.ModuleList(Part() for _ in range(parts)), again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = checkpoint(part, x, use_reentrant=False) if self.again else part(x)
        return x


def made(recipe: str, *, backend: ReferenceBackend | None = None, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return convert(Model(**options), recipe, backend=backend, seed=5).model


def runtime_of(model: nn.Module) -> Runtime:
    return next(m.runtime for m in model.modules() if hasattr(m, "runtime"))


class Training:
    """Steps, the numbers of each, and what was compiled by then."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.optimizer = model, PlainSgd(model, 1e-3)
        self.found: list[torch.Tensor] = []
        self.compiled: list[tuple[int, int]] = []

    def run(self, call: Callable[[torch.Tensor], torch.Tensor], steps: int = 5) -> "Training":
        for step in range(steps):
            x = normal(2, 32, 64, seed=step).requires_grad_()
            y = call(x)
            y.float().pow(2).mean().backward()
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            assert x.grad is not None
            self.found += [one.detach().clone() for one in (y, x.grad, *grads)]
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.compiled.append(compilations())
        return self


def compilations() -> tuple[int, int]:
    """Frames that the compiler took up, and graphs that it made."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"], counters["stats"]["unique_graphs"]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert other.isfinite().all()
        assert one.dtype is other.dtype
        assert torch.equal(one, other), f"tensor {place}"


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing compiled, nothing counted; the limit of compilations of a function is an error."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def compare(recipe: str, backend: str, *, fullgraph: bool, **options: Any) -> Training:
    wanted = made(recipe, **options)
    eager = Training(wanted).run(wanted)
    model = made(recipe, **options)
    found = Training(model).run(torch.compile(model, backend=backend, fullgraph=fullgraph))
    assert_same(found.found, eager.found)
    assert runtime_of(model).seeds.count == runtime_of(wanted).seeds.count
    assert len(set(found.compiled)) == 1, "something was compiled after the first step"
    return found


def plain(operator: Any) -> Callable[..., Any]:
    """What an operator calls: a call of the operator itself loads the compiler, for seconds."""
    function: Callable[..., Any] = operator._init_fn
    return function


# In the default suite: no compiler.


def test_recipes_are_either_in_the_graph_or_outside() -> None:
    for recipe in RECIPES:
        graph = runtime_of(made(recipe)).in_graph
        assert (graph is not None) == (recipe in IN_GRAPH), recipe


@pytest.mark.slow
@pytest.mark.parametrize("recipe", IN_GRAPH)
def test_operators_are_the_layer(recipe: str) -> None:
    """What a graph calls, called: outputs and gradients to the bit, and the same keys."""
    wanted, model = made(recipe), made(recipe)
    found = []
    for part, in_graph in ((wanted.get_submodule("parts.0.q"), False), (model.parts[0].q, True)):  # type: ignore[union-attr,index]
        x = normal(3, 11, 64).requires_grad_()
        y = part._in_graph(x, part.runtime.in_graph) if in_graph else part(x)
        y.float().pow(2).mean().backward()
        count = torch.tensor(part.runtime.seeds.count)
        found.append([y.detach(), x.grad, part.weight.grad, part.bias.grad, count])
    assert_same(found[1], found[0])
    assert int(found[0][-1]) == 1


@pytest.mark.parametrize("recipe", IN_GRAPH)
@pytest.mark.parametrize("rows", [1, 32, 33])
@pytest.mark.parametrize("kernels", [False, True], ids=["twin", "kernels"])
def test_layouts_are_those_that_the_compiler_was_told(
    recipe: str, rows: int, kernels: bool, launches: Launches
) -> None:
    model = made(recipe, backend=cuda() if kernels else None)
    graph = runtime_of(model).in_graph
    assert graph is not None
    x = normal(rows, 64, dtype=torch.bfloat16)
    named = (graph.place, graph.formats)
    real = plain(graph_operators.input_codes)(x, *named, not graph.both)
    formats = [TensorFormat.parse(graph.formats.split()[0])] * (1 if graph.both else 2)
    sides = [(rows, 64), (64, rows)]
    told = [
        layout
        for fmt, (down, across) in zip(formats, sides, strict=False)
        for layout in graph_layouts.layouts(fmt, down, across)
    ]
    assert [(tuple(t.shape), t.stride(), t.dtype) for t in real] == told
    assert all(t.untyped_storage().data_ptr() != x.data_ptr() for t in real)


def test_a_backend_that_stores_codes_otherwise_is_refused() -> None:
    class Packed(ReferenceBackend):
        def quantize(
            self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
        ) -> Codes:
            made = super().quantize(x, out, seed=seed, share=share)
            scales = made.main.scales
            assert scales is not None
            return Codes(main=replace(made.main, scales=scales.half()))

    run = runtime("int8-tensor", backend=Packed())
    graph = run.in_graph
    assert graph is not None
    with pytest.raises(ValueError, match=r"float16.*: a compiled graph takes codes an item each"):
        plain(graph_operators.input_codes)(normal(4, 64), graph.place, graph.formats, False)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", IN_GRAPH)
def test_graphs_launch_what_the_layer_does(recipe: str, launches: Launches) -> None:
    """The backend of a GPU, its launches replaced by checks and the twin's results."""
    found, seen = [], []
    for in_graph in (False, True):
        torch.manual_seed(0)
        layer = convert(nn.Linear(256, 64), recipe, backend=cuda(), seed=5).model
        x = normal(48, 256, dtype=torch.bfloat16).requires_grad_()
        y = layer._in_graph(x, layer.runtime.in_graph) if in_graph else layer(x)
        y.backward(normal(48, 64, seed=1, dtype=torch.bfloat16))
        assert x.grad is not None
        found.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
        seen.append(sorted(launches.seen))
        launches.seen.clear()
    assert_same(found[1], found[0])
    assert seen[1] == seen[0]


class Counting(ReferenceBackend):
    """Counts the matrices that are quantised, by their shape."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        self.seen.append(tuple(x.shape))
        return super().quantize(x, out, seed=seed, share=share)


@pytest.mark.slow
def test_graphs_take_the_codes_of_weights_that_layers_keep() -> None:
    backend = Counting()
    model = made("int8-tensor", backend=backend)
    layer = model.get_submodule("parts.0.q")
    for _ in range(2):
        layer._in_graph(normal(3, 64), layer.runtime.in_graph).sum().backward()
    assert backend.seen.count((64, 64)) == 1
    with torch.no_grad():
        layer.weight.mul_(2)
    found = layer._in_graph(normal(3, 64), layer.runtime.in_graph)
    assert backend.seen.count((64, 64)) == 2
    runtime_of(model).seeds.count = 0
    assert torch.equal(found, layer(normal(3, 64)))


def test_another_weight_in_the_layers_place_has_codes_of_its_own() -> None:
    model = made("int8-row")
    layer = model.get_submodule("parts.0.q")
    layer(normal(3, 64))
    given = {"weight": normal(64, 64, seed=4), "bias": normal(64, seed=5)}
    wanted = torch.func.functional_call(layer, given, (normal(3, 64),))
    graph = layer.runtime.in_graph
    codes = plain(graph_operators.input_codes)(normal(3, 64), graph.place, graph.formats, False)
    rest = (None, graph.place, graph.formats, torch.float32)
    found = plain(graph_operators.product)(normal(3, 64), *given.values(), codes, *rest)
    assert torch.equal(found, wanted)


def test_a_graph_of_a_model_that_is_gone_says_so() -> None:
    mine, others = made("int8-row"), made("mxfp4")
    graph, other = runtime_of(mine).in_graph, runtime_of(others).in_graph
    assert graph is not None
    assert other is not None
    for place in (torch.tensor(10**6), other.place):
        with pytest.raises(RuntimeError, match=r"int8.row.* has no model of these formats"):
            plain(graph_operators.key)(torch.tensor(0), place, graph.formats)


def test_operators_are_kept_out_of_cuda_graphs() -> None:
    for name in ("key", "input_codes", "product", "gradients"):
        overload = getattr(torch.ops.tile_workbench_nn, name).default
        assert torch.Tag.cudagraph_unsafe in overload.tags


def test_a_captured_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass of a compiled model runs without gradients of its own."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for replayable in (False, True):
        run = runtime("int8-row", seed=5, replayable=replayable)
        graph = run.in_graph
        assert graph is not None
        given = (torch.tensor(7), graph.place, graph.formats)
        with torch.no_grad():
            if not replayable:
                with pytest.raises(RuntimeError, match="every replay would round by the same"):
                    plain(graph_operators.key)(*given)
                continue
            key, behind = plain(graph_operators.key)(*given)
        drawn = SeedStream(5, 7).draw()
        assert (int(key) % 2**64, int(behind)) == (drawn, 8)


def test_a_counter_that_was_handed_out_does_not_change() -> None:
    """A graph may compute again from it in backward: the key would be another one."""
    seeds = SeedStream(3)
    before = seeds.counter
    first = seeds.draw()
    assert (int(before), seeds.count) == (0, 1)
    seeds.count = 0
    assert seeds.draw() == first


def test_saved_models_and_copies_have_places_of_their_own() -> None:
    model = made("int8-row")
    again = pickle.loads(pickle.dumps(model))
    mine, other = runtime_of(model).in_graph, runtime_of(again).in_graph
    assert mine is not None
    assert other is not None
    assert int(mine.place) != int(other.place)
    layer = again.get_submodule("parts.0.q")
    assert other.layer_of(layer.matrix) is layer
    copied = copy.deepcopy(model).get_submodule("parts.0.q")
    assert mine.layer_of(copied.matrix) is copied


# With the compiler.


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
