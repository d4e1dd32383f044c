"""The operators of layers in a graph, without a compiler: numbers, launches and codes."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from compile_cases import IN_GRAPH, Counting, assert_same, made, plain, runtime_of
from cuda_stand_ins import Launches, cuda, launches
from nn_cases import normal, runtime
from torch import nn

from tiles.formats import TensorFormat
from workbench.nn import (
    RECIPES,
    Codes,
    ReferenceBackend,
    SeedStream,
    convert,
    graph_layouts,
    graph_operators,
)

__all__ = ["launches"]


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
