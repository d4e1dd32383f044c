"""A Llama-like block of 4096 features patched by a package: answers, graphs, speed-up."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rounding_noise import product_noise

from bench.block_timing import Case, Clock
from bench.patch import ASKED, MODEL
from bench.patched_block import (
    ERROR_FACTOR,
    emitted_for,
    expected_error,
    imported,
    measure_patched,
    predict_patched,
)
from bench.torch_block import TransformerBlock
from sim import Gpu
from tiles.formats.torch_codec import quantize_tensor
from tiles.recipes import recipe
from workbench.network_models import read_network

pytestmark = pytest.mark.gpu

RECIPES = ("deepseek-fp8", "int8-row")
LARGE = Case(model=MODEL, sequences=4, length=2048)
SMALL = Case(model=MODEL, sequences=1, length=128)


@pytest.fixture(scope="module")
def module(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("patch")
    package = emitted_for((LARGE, SMALL), (*RECIPES, "w4a16-g128"), gpu.name, folder)
    with imported(package.folder) as found:
        yield found


def _block(case: Case) -> tuple[TransformerBlock, torch.Tensor]:
    network = read_network(case.model, case.length)
    block = TransformerBlock(network.block, case.length, dtype=torch.bfloat16, device="cuda")
    shape = (case.sequences, case.length, network.block.hidden)
    generator = torch.Generator(device="cuda").manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.bfloat16, device="cuda")
    return block.eval(), x


def _values(codes: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    rows, cols = codes.shape
    spread = scales.float().repeat_interleave(block[0] or rows, 0)[:rows]
    return codes.float() * spread.repeat_interleave(block[1] or cols, 1)[:, :cols]


@pytest.mark.parametrize("name", RECIPES)
def test_every_layer_is_the_product_of_its_codes(module: ModuleType, name: str) -> None:
    block, x = _block(SMALL)
    files = import_module(f"{module.__name__}._lookup").FILES
    layout = next(f.layout for f in files if f.formats == (name, "bf16") and f.gpu)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    module.patch(block, name)
    for key, layer in block.linears.items():
        layer.register_forward_hook(
            lambda _, given, out, key=key: seen.update({key: (given[0], out)})
        )
    with torch.no_grad():
        block(x)
    assert set(seen) == set(block.linears)
    for key, (given, out) in seen.items():
        layer: Any = block.linears[key]
        rows = given.reshape(-1, layer.in_features)
        codes, scales = module.quantize(rows, layer.activation)
        exact = (
            _values(codes, scales, layout["a_block"]).double()
            @ _values(layer.codes, layer.scales, layout["b_block"]).double().T
        )
        off = (out.view_as(exact).double() - exact).norm() / exact.norm()
        # Half a last place of bf16, and what chained sums of FP8 products lose (22 bits).
        assert off < 2**-8, (key, float(off))
        plain = layer.original[0].weight.detach().to("cuda")
        wide = rows.double() @ plain.double().T
        # By the steps at these very numbers: what goes into "down" has a few large ones.
        most = 1.1 * product_noise(rows, plain, recipe(name))
        assert (exact - wide).norm() < most * wide.norm(), (key, most)


@pytest.mark.parametrize("rows", [1, 8, 128, 300])
def test_weight_only_layers_are_the_product_of_their_codes(module: ModuleType, rows: int) -> None:
    """By CUDA C++ and by Triton, whichever the package has for so many rows."""
    block, _ = _block(SMALL)
    module.patch(block, "w4a16-g128")
    generator = torch.Generator(device="cuda").manual_seed(rows)
    for key, layer in block.linears.items():
        weight = layer.original[0].weight.detach().to("cuda")  # type: ignore[index, union-attr]
        shape = (rows, weight.shape[1])
        x = torch.randn(shape, generator=generator, dtype=torch.bfloat16, device="cuda")
        coded = quantize_tensor(weight, recipe("w4a16-g128").weight).dequantize(torch.float64)
        exact = x.double() @ coded.T
        # Half a last place of bf16 for the output, and one where weights are scaled in bf16:
        # 2^-9 each at most, independent of one another.
        assert (layer(x).double() - exact).norm() < 2**-8 * exact.norm(), key


def test_weights_have_the_same_bits_as_on_the_host(module: ModuleType) -> None:
    quantize_weight = import_module(f"{module.__name__}._weight_codes").quantize_weight
    weight = torch.randn(1100, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight[3, 7], weight[200, 9], weight[512:640, :128] = torch.nan, torch.inf, 0
    for element, block, stored in (
        ("e4m3fn", (128, 128), "fp32"),
        ("int8", (1, 0), "fp32"),
        ("int8", (0, 0), "fp32"),
        ("int4", (1, 128), "fp16"),
    ):
        host = quantize_weight(weight, element, block, stored)
        codes, scales = quantize_weight(weight.cuda(), element, block, stored)
        assert torch.equal(codes.cpu().view(torch.uint8), host[0].view(torch.uint8)), element
        # Of 1xB blocks columns are contiguous, and a NaN is one with whatever bits.
        mine, its = (one.cpu().contiguous().float() for one in (scales, host[1]))
        assert scales.stride() == host[1].stride()
        assert torch.equal(mine.isnan(), its.isnan()), element
        assert torch.equal(mine.nan_to_num(), its.nan_to_num()), element
        assert its.isnan().any()


@pytest.mark.parametrize("name", [*RECIPES, "w4a16-g128"])
def test_one_compiled_graph_and_a_cuda_graph_give_the_eager_answer(
    module: ModuleType, name: str
) -> None:
    block, x = _block(SMALL)
    with torch.no_grad():
        plain = block(x).double()
    report = module.patch(block, name)
    assert len(report.replaced) == 4
    assert all(one.tuned for one in report.replaced)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, dynamic=False)
    with torch.no_grad():
        eager = block(x)
        found, cost = compiled(x).double(), (eager.double() - plain).norm()
        # Fused steps between the products round less often, and what is a little off may have the
        # next code: by no more than if all activations were rounded independently.
        assert (found - eager.double()).norm() < cost
        assert (found - plain).norm() < 1.1 * cost
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            block(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph, given = torch.cuda.CUDAGraph(), torch.zeros_like(x)
        with torch.cuda.graph(graph):
            out = block(given)
        given.copy_(x)
        graph.replay()
        assert torch.equal(out, eager)


def test_bf16_weights_are_never_all_on_the_gpu(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    # fp32 temporaries of a band, small beside the weights.
    monkeypatch.setattr(import_module(f"{module.__name__}._weight_codes"), "_BAND", 1 << 20)
    block, x = _block(SMALL)
    with torch.no_grad():
        plain = block(x)
    path = tmp_path / "block.safetensors"
    save_file({name: one.cpu() for name, one in block.state_dict().items()}, path)
    largest = max(one.nbytes for one in block.parameters())
    everything = sum(one.nbytes for one in block.parameters())
    cos, sin = block.cos, block.sin
    block.to("meta")
    block.cos, block.sin = cos, sin
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    report = module.patch(block, "deepseek-fp8", weights=path, device="cuda")
    peak = torch.cuda.max_memory_allocated() - before
    # Codes, one weight in bf16, and what a band needs.
    most = report.bytes_after + largest + 2**26
    assert most < 0.9 * (report.bytes_after + everything)
    assert peak < most
    with torch.no_grad():
        off = (block(x).double() - plain.double()).norm() / (plain - x).double().norm()
    assert off < ERROR_FACTOR * expected_error("deepseek-fp8", 4096)


@pytest.mark.alone
@pytest.mark.parametrize("name", RECIPES)
def test_the_block_is_faster_than_bf16_by_what_is_predicted(
    module: ModuleType, gpu: Gpu, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = measure_patched(LARGE, name, module, "cuda", Clock("cuda"))
    predicted = predict_patched(LARGE, gpu.name, name)
    with capsys.disabled():
        print(
            f"\n{LARGE} {name}: measured x{measured['speedup']:.3f}, predicted "
            f"x{predicted['speedup']:.3f}, error {measured['error']:.4f} of at most "
            f"{measured['error_bound']:.4f}"
        )
    assert measured["error"] < measured["error_bound"]
    assert measured["speedup"] > 1
    assert abs(measured["speedup"] / predicted["speedup"] - 1) < ASKED
