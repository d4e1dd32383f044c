"""The dataflow kernels on a GPU: every operator, format and many configurations, and replays."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sim import gpu_names, load_gpu
from tiles.formats import random_bits
from tiles.kernels import Kernel, TileConfig, kernels
from tiles.kernels.dataflow_blocks import DataflowBlocksConfig
from tiles.kernels.dataflow_rows import ROW_OPS, DataflowRowsConfig
from tiles.kernels.dataflow_workload import DataflowWorkload
from tiles.problems import DATAFLOW_OPS, Dataflow, parse_problem

pytestmark = pytest.mark.gpu

FORMATS = (
    "int8.b32x32", "int8.b32x32+sr", "int8.b1x128+sr", "int8.b128x128", "int8.b128x128+sr",
    "int8.b64x64", "e4m3fn.b32x32+sr", "e4m3fn.b1x128", "e4m3fn.b1x128+sr", "e4m3fn.b128x128+sr",
)  # fmt: skip
#: Aligned and ragged, one row, one block, wide and tall.
SHAPES = ("512x1024", "97x4096", "130x1040", "33x129", "1x16", "1x1", "7x40000", "3000x272")


@pytest.fixture(scope="module", autouse=True)
def _kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Torch compiles the reference's erfc and warns where its cache folder is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTORCH_KERNEL_CACHE_PATH", str(tmp_path_factory.mktemp("torch")))
        yield


def opened(text: str) -> tuple[Kernel, Dataflow, list[TileConfig]] | None:
    """The family that serves a problem here, the problem, its default and legal configurations.

    None where rows are too long for an SM's shared memory, the one refusal that a shape brings.
    """
    pytest.importorskip("cupy")
    name = torch.cuda.get_device_name()
    limits = next(g for g in map(load_gpu, gpu_names()) if g.matches(name)).limits
    problem = parse_problem(text)
    assert isinstance(problem, Dataflow)
    reasons = []
    for family in kernels().values():
        reason = family.refusal(problem, limits)
        if reason is None:
            legal = family.legal_space(problem, limits).accepted
            return family, problem, [family.default(problem, limits), *legal]
        reasons.append(reason)
    if any("cannot hold rows" in reason for reason in reasons):
        return None
    pytest.skip("; ".join(r for r in reasons if "dataflow" in r))


def check(text: str, configs: int, seed: int = 0, lanes: int = 0) -> None:
    """The default and other configurations; with ``lanes`` only those of so many lanes a block."""
    found = opened(text)
    if found is None:
        assert "x40000:" in text
        return
    family, problem, legal = found
    if lanes:
        legal = [one for one in legal if one.to_dict()["lanes"] == lanes]
        assert len(legal) >= configs, f"{text}: {len(legal)} configurations of {lanes} lanes"
    workload = family.workload(problem, device="cuda", seed=seed)
    rng = np.random.default_rng(seed)
    chosen = [0, *rng.choice(len(legal), min(configs - 1, len(legal)), replace=False).tolist()]
    for index in chosen:
        accuracy = workload.check(legal[index])
        assert accuracy.ok, f"{text} {legal[index]}: {accuracy.reason}"


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("op", DATAFLOW_OPS)
def test_every_operator_and_format_agrees_with_the_reference(op: str, fmt: str) -> None:
    """The default everywhere, which is few programs, and another configuration at two shapes."""
    for number, shape in enumerate(SHAPES):
        check(f"dataflow:{shape}:{op}:{fmt}", configs=2 if number in (0, 3) else 1, seed=number)


@pytest.mark.parametrize("op", DATAFLOW_OPS)
@pytest.mark.parametrize("fmt", ["int8.b32x32+sr", "e4m3fn.b1x128+sr"])
def test_many_configurations_agree_with_the_reference(op: str, fmt: str) -> None:
    check(f"dataflow:640x2080:{op}:{fmt}", configs=12)


@pytest.mark.parametrize("op", DATAFLOW_OPS)
def test_a_large_matrix_agrees_with_the_reference(op: str) -> None:
    check(f"dataflow:8192x4096:{op}:int8.b32x32+sr", configs=2)


@pytest.mark.parametrize("op", DATAFLOW_OPS)
@pytest.mark.parametrize("fmt", ["int8.b32x32+sr", "int8.b64x16", "e4m3fn.b16x64+sr"])
def test_warps_that_move_lines_agree_with_the_reference(op: str, fmt: str) -> None:
    """A warp has whole blocks to itself: one tile or several, a CTA alone or in a cluster."""
    check(f"dataflow:640x2048:{op}:{fmt}", configs=7, lanes=32)


@pytest.mark.parametrize("op", ["gelu", "silu-bwd"])
def test_tables_of_more_than_48_kib(op: str) -> None:
    found = opened(f"dataflow:1000x4096:{op}:int8.b32x32+sr")
    assert found is not None
    family, problem, _ = found
    config = DataflowBlocksConfig(threads=512, lanes=16, steps=2, ctas=1)
    accuracy = family.workload(problem, device="cuda", seed=0).check(config)
    assert accuracy.ok, accuracy.reason


@pytest.mark.parametrize("fmt", ["int8.b1x16", "int8.b1x512", "int8.b1x1024+sr", "int8.b16x512"])
@pytest.mark.parametrize("op", ["gelu", "dropout", "residual", "layernorm"])
def test_narrow_and_wide_blocks_agree_with_the_reference(op: str, fmt: str) -> None:
    for seed, shape in enumerate(("96x4096", "33x1040")):
        check(f"dataflow:{shape}:{op}:{fmt}", configs=4, seed=seed)


def test_offsets_beyond_two_gigabytes() -> None:
    """Of 2.5e9 elements: all rows against the first, and what dropout leaves of the last ones."""
    cupy = pytest.importorskip("cupy")
    from tiles.kernels.cuda import dataflow_blocks

    rows, cols, block = 2**17 + 2**15, 2**14, (32, 32)
    config = {"threads": 256, "lanes": 32, "steps": 4, "ctas": 3}
    rest: dict[str, Any] = {"op": "relu", "element": "int8", "block": block, "config": config}
    pattern = cupy.random.default_rng(0).integers(-127, 128, (32, cols)).astype(cupy.int8)
    x, out = cupy.empty((rows, cols), cupy.int8), cupy.full((rows, cols), 0x55, cupy.int8)
    x.reshape(-1, 32, cols)[:] = pattern
    scales = cupy.ones((rows // 32, cols // 32), cupy.float32)
    out_scales = cupy.zeros_like(scales)
    dataflow_blocks.launch(x, scales, out, out_scales, **rest)
    assert bool((out.reshape(-1, 32, cols) == out[:32]).all())
    assert bool((out_scales == out_scales[0]).all())
    assert bool((out[:32] >= 0).all())
    seed, below = 2**63 + 5, dataflow_blocks.drop_below(0.25)
    rest |= {"op": "dropout", "probability": 0.25, "mask_seed": seed}
    dataflow_blocks.launch(x, scales, out, out_scales, **rest)
    halves = random_bits((rows - 32) * cols, 32 * cols, seed).reshape(32, cols) >> 16
    zero = (pattern.get() == 0) | (halves < below)
    np.testing.assert_array_equal(out[-32:].get() == 0, zero)


@pytest.mark.parametrize("splits", [2, 8])
@pytest.mark.parametrize("op", ROW_OPS)
def test_clusters_that_walk_far_agree_and_repeat_themselves(op: str, splits: int) -> None:
    """CTAs send each other the sums of many row groups: none may be taken for another's."""
    found = opened(f"dataflow:4096x2048:{op}:int8.b32x32+sr")
    assert found is not None
    family, problem, legal = found
    walking = [
        config
        for config in legal
        if isinstance(config, DataflowRowsConfig)
        and (config.splits, config.rows, config.lanes) == (splits, 32, 32)
        and (op == "residual" or config.clusters > 1)
    ]
    config = min(walking, key=lambda c: (c.clusters, c.threads))
    workload = family.workload(problem, device="cuda", seed=2)
    assert isinstance(workload, DataflowWorkload)
    accuracy = workload.check(config)
    assert accuracy.ok, accuracy.reason
    first = {name: t.clone() for name, t in workload.tensors.written.items()}
    launch = workload.launchers(config, 1)[0]
    for _ in range(40):
        launch()
    torch.cuda.synchronize()
    for name, tensor in workload.tensors.written.items():
        assert torch.equal(tensor.view(torch.uint8), first[name].view(torch.uint8)), name


@pytest.mark.parametrize("op", ["gelu", "dropout", "residual", "layernorm", "layernorm-bwd"])
def test_replays_from_a_graph_and_repeats_itself(op: str) -> None:
    found = opened(f"dataflow:1000x4096:{op}:int8.b32x32+sr")
    assert found is not None
    family, problem, legal = found
    workload = family.workload(problem, device="cuda", seed=1)
    assert isinstance(workload, DataflowWorkload)
    config = legal[0]
    accuracy = workload.check(config)
    assert accuracy.ok, accuracy.reason
    first = {name: t.clone() for name, t in workload.tensors.written.items()}
    launch = workload.launchers(config, 1)[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    for tensor in workload.tensors.written.values():
        tensor.view(torch.uint8).fill_(0x55)
    graph.replay()
    torch.cuda.synchronize()
    for name, tensor in workload.tensors.written.items():
        assert torch.equal(tensor.view(torch.uint8), first[name].view(torch.uint8)), name
