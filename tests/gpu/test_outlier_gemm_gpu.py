"""Products with outliers apart on a real GPU: formats, tails, counts on the device, graphs."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from covering import covering
from huge_tensors import sampled

from sim import gpu_names, load_gpu
from tiles.formats import element
from tiles.kernels import Accepted
from tiles.kernels.outlier_gemm import OutlierGemmConfig, TritonOutlierGemm
from tiles.problems import Gemm
from tiles.recipes import OutlierBlocks, OutlierColumns, Recipe, recipe

pytestmark = pytest.mark.gpu

FAMILY = TritonOutlierGemm()
BASE = OutlierGemmConfig(
    block_m=128,
    block_n=128,
    block_k=64,
    outlier_k=64,
    group_m=8,
    num_warps=8,
    num_stages=3,
    tma=False,
)
VARIANTS = {
    "plain": BASE,
    "tma": replace(BASE, tma=True),
    "16 rows": replace(BASE, block_m=16, block_n=64, num_warps=4, num_stages=4),
    "64 rows, shallow": replace(BASE, block_m=64, block_k=32, outlier_k=32, num_warps=4),
    "deep": replace(BASE, block_k=128, num_stages=4),
}
FORMATS: dict[str, tuple[str, str, OutlierColumns | OutlierBlocks]] = {
    "llm-int8": ("int8.row", "int8.row", OutlierColumns()),
    "many columns in bf16": (
        "int8.tensor",
        "int8.row",
        OutlierColumns(threshold=3.5, kept=element("bf16")),
    ),
    "int8-fallback": ("int8.b128x128", "int8.b128x128", OutlierBlocks(share=0.2)),
    "every block": ("int8.b128x128", "int8.b128x128", OutlierBlocks(share=1.0)),
    "one block": ("int8.b128x256", "int8.b128x128", OutlierBlocks(share=1e-6)),
}
EVEN = (256, 512, 1024)
RAGGED = [(333, 1032, 2096), (1, 517, 1001), (7, 41, 4099)]


def limits() -> Any:
    import torch

    name = torch.cuda.get_device_name()
    found = [g for g in map(load_gpu, gpu_names()) if g.matches(name)]
    return found[0].limits if found else pytest.skip(f"no file describes {name}")


def problem_of(formats: str, shape: tuple[int, int, int], out: str = "bf16") -> Gemm:
    activation, weight, apart = FORMATS[formats]
    pair = Recipe.of("pair", activation=activation, weight=weight, outliers=apart, source="a test")
    m, n, k = shape
    return Gemm(m=m, n=n, k=k, recipe=pair, out=out)


def chosen(variant: str, formats: str) -> OutlierGemmConfig:
    config = VARIANTS[variant]
    if config.tma and "tma" not in limits().features:
        pytest.skip("no tensor memory access")
    if isinstance(FORMATS[formats][2], OutlierBlocks):
        return replace(config, outlier_k=config.block_k)
    return config


def workload_of(problem: Gemm, seed: int = 1) -> Any:
    """Random operands; where columns are many, with memory for as many as there are."""
    from tiles.kernels.outlier_packing import column_capacity
    from tiles.kernels.outlier_workload import OutlierGemmWorkload

    class Roomy(OutlierGemmWorkload):
        @property
        def capacity(self) -> int:
            columns = isinstance(self.problem.recipe.outliers, OutlierColumns)
            return column_capacity(self.problem.k) if columns else super().capacity

    return Roomy(problem, device="cuda", seed=seed)


def cases() -> list[Any]:
    found = []
    for row, formats in enumerate(FORMATS):
        for column, (name, config) in enumerate(VARIANTS.items()):
            turn = row + column
            # Descriptors take rows of multiples of 16 bytes.
            ragged = RAGGED[0] if config.tma else RAGGED[turn % len(RAGGED)]
            for shape, even in ((EVEN, True), (ragged, False)):
                out = ("bf16", "fp32", "fp16")[(turn + even) % 3]
                label = f"{formats}, {name}, {'even' if even else 'ragged'}"
                found.append(pytest.param(formats, name, shape, out, id=label))
    return found


@pytest.mark.parametrize(("formats", "variant", "shape", "out"), cases())
def test_every_format_lies_within_its_bounds(
    formats: str, variant: str, shape: tuple[int, int, int], out: str
) -> None:
    config, problem = chosen(variant, formats), problem_of(formats, shape, out)
    verdict = workload_of(problem).check(config)
    assert verdict.ok, f"{problem} {config}: {verdict.reason}"
    if out == "fp32":
        # Sums of 16-bit columns keep 24 bits: an outlier that is left out cannot hide.
        assert verdict.relative_rms < 1e-5


SAMPLED = [(name, m) for name in ("llm-int8", "int8-fallback") for m in (5, 200, 2048)]


@cache
def sample() -> dict[Any, list[OutlierGemmConfig]]:
    """Defaults, and 60 configurations that cover the most pairs of values."""
    here = limits()
    problems = {
        (name, m): Gemm(m=m, n=2048, k=2048, recipe=recipe(name), out="fp16") for name, m in SAMPLED
    }
    found = covering([FAMILY.legal_space(p, here).accepted for p in problems.values()], 60)
    return {
        key: [FAMILY.default(problem, here), *configs]  # type: ignore[list-item]
        for (key, problem), configs in zip(problems.items(), found, strict=True)
    }


@pytest.mark.parametrize(("name", "m"), SAMPLED)
def test_legal_configurations_run(name: str, m: int) -> None:
    """A sample of the space that the legality gate passed compiles, launches and is right."""
    problem = Gemm(m=m, n=2048, k=2048, recipe=recipe(name), out="fp16")
    configs = sample()[name, m]
    assert isinstance(FAMILY.judge(problem, configs[0], limits()), Accepted)
    workload = FAMILY.workload(problem, device="cuda", seed=6)
    for config in configs:
        verdict = workload.check(config)
        assert verdict.ok, f"{problem} {config}: {verdict.reason}"


@pytest.mark.parametrize("formats", ["llm-int8", "many columns in bf16", "int8-fallback"])
@pytest.mark.parametrize("variant", ["plain", "tma"])
def test_a_graph_replays_with_other_operands_and_counts(formats: str, variant: str) -> None:
    import torch

    from tiles.kernels.accuracy import compare

    config = chosen(variant, formats)
    problem = problem_of(formats, (300, 1024, 2048))
    workload, other = workload_of(problem, 4), workload_of(problem, 5)
    run = workload.launchers(config, 1)[0]
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    c = workload.operands.c
    for source in (workload, other, other):
        if source is other:
            for mine, its in zip(workload.operands.tensors, other.operands.tensors, strict=True):
                mine.copy_(its)
        c.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        first = c.clone()
        verdict = compare(c, source.reference())
        assert verdict.ok, verdict.reason
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(c, first)  # the same bits on every call


@pytest.mark.parametrize("formats", ["llm-int8", "int8-fallback"])
def test_packing_waits_for_nothing_and_is_the_same_as_on_the_host(formats: str) -> None:
    import torch

    from tiles.kernels.outlier_packing import pack_blocks, pack_columns

    activation, _, apart = FORMATS[formats]
    fmt = problem_of(formats, EVEN).recipe.activation
    generator = torch.Generator().manual_seed(3)
    x, w = (torch.randn(rows, 1000, generator=generator) for rows in (300, 200))
    x[:, [5, 77, 901]] *= 20
    found = []
    for device in ("cuda", "cpu"):
        here = [t.to(device) for t in (x, w)]
        with warnings.catch_warnings():
            # The mode is called a prototype each time that it is set.
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        try:
            if isinstance(apart, OutlierColumns):
                packed = pack_columns(*here, fmt, apart, 64)
            else:
                packed = pack_blocks(here[0], fmt, apart)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append((packed.codes, packed.scales, packed.outliers.tensors))
    for mine, its in zip(found[0][:2], found[1][:2], strict=True):
        assert torch.equal(mine.cpu(), its), activation
    used = int(found[1][2]["offsets"][-1]) if "offsets" in found[1][2] else None
    for name, tensor in found[0][2].items():
        wanted = found[1][2][name]
        last = None if name == "offsets" else used
        assert torch.equal(tensor.cpu()[:last], wanted[:last]), name


@pytest.mark.parametrize("formats", ["llm-int8", "int8-fallback"])
def test_zero_blocks_outliers_and_nan_behave_as_documented(formats: str) -> None:
    import torch

    problem = problem_of(formats, (200, 90, 333), "fp32")
    workload = workload_of(problem)
    x, _ = workload.drawn
    x[0], x[1, :160] = 0, 0
    x[2, 3] = 30000.0
    x[3] *= 1e-38
    x[150, -1] = torch.nan
    verdict = workload.check(chosen("plain", formats))
    assert verdict.ok, verdict.reason
    spoilt = workload.operands.c.isnan().all(dim=1).nonzero().flatten().tolist()
    assert spoilt == ([150] if formats == "llm-int8" else list(range(128, 200)))


@pytest.mark.parametrize("formats", ["llm-int8", "int8-fallback"])
@pytest.mark.parametrize("shape", [(131200, 16512, 128), (128, 131200, 16512)], ids=["C", "B"])
@pytest.mark.parametrize("variant", ["plain", "tma"])
def test_offsets_beyond_two_to_the_31(
    variant: str, shape: tuple[int, int, int], formats: str, huge: Callable[[float], None]
) -> None:
    """More than 2^31 elements of C, or of B; a sample of rows and columns is looked at."""
    import torch

    from tiles.kernels.accuracy import compare, gemm_reference
    from tiles.kernels.gemm_workload import dequantize, launch_block
    from tiles.kernels.outlier_packing import pack_blocks, pack_columns
    from tiles.kernels.outlier_workload import arithmetic_of, second_values
    from tiles.kernels.triton import gemm_outliers

    config, problem = chosen(variant, formats), problem_of(formats, shape)
    huge(60)
    (m, n, k), one = shape, problem.recipe
    generator = torch.Generator(device="cuda").manual_seed(2)
    x = torch.randn(m, k, generator=generator, device="cuda")
    x[:, 5] *= 20
    # Codes and one scale a row or block, as if they were quantised: no weights in fp32.
    b = torch.randint(-127, 128, (n, k), generator=generator, device="cuda", dtype=torch.int8)
    b_block = launch_block(one.weight)
    grid = (n, 1) if formats == "llm-int8" else (-(-n // 128), -(-k // 128))
    b_scale = torch.rand(grid, generator=generator, device="cuda") + 0.5
    rows = sampled(m, n) if m > n else list(range(m))
    cols = sampled(n, k) if m < n else list(range(n))
    if isinstance(one.outliers, OutlierColumns):
        weights = torch.zeros(n, k, dtype=torch.float16, device="cuda")
        weights[:, 5] = torch.randn(n, generator=generator, device="cuda")
        packed = pack_columns(x, weights, one.activation, one.outliers, 64)
        del weights
    else:
        assert isinstance(one.outliers, OutlierBlocks)
        packed = pack_blocks(x, one.activation, one.outliers)
    c = torch.full((m, n), float("nan"), dtype=torch.bfloat16, device="cuda")
    gemm_outliers.launch(
        packed.codes, b, c, packed.scales, b_scale, packed.outliers,
        a_block=launch_block(one.activation), b_block=b_block, config=config.to_dict(),
    )  # fmt: skip
    a_values = dequantize(packed.codes, packed.scales, one.activation)[rows]
    if formats == "llm-int8":
        b_values = b[cols].to(torch.float64) * b_scale[cols].to(torch.float64)
        kept = (packed.outliers.a[rows], packed.outliers.b[cols])
    else:
        spread = b_scale.repeat_interleave(128, dim=1)[:, :k]
        places = torch.tensor(cols, device="cuda") // 128
        b_values = b[cols].to(torch.float64) * spread[places].to(torch.float64)
        kept = (second_values(packed.outliers, m, k)[rows], b_values)
    left, right = (
        torch.cat([first, second.to(torch.float64)], dim=1)
        for first, second in zip((a_values, b_values), kept, strict=True)
    )
    wanted = gemm_reference(left, right, arithmetic_of(problem, interpreted=False))
    verdict = compare(c[rows][:, cols], wanted)
    assert verdict.ok, verdict.reason
    # Nothing was left out anywhere.
    assert all(not part.isnan().any() for part in c.flatten().split(2**28))


@pytest.mark.parametrize("shape", [(4096, 4096, 4096), (4096, 2112, 7168), (16, 8192, 8192)])
@pytest.mark.parametrize("name", ["llm-int8", "int8-fallback"])
def test_large_products(name: str, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    problem = Gemm(m=m, n=n, k=k, recipe=recipe(name))
    config = FAMILY.default(problem, limits())
    verdict = FAMILY.workload(problem, device="cuda", seed=2).check(config)
    assert verdict.ok, f"{problem}: {verdict.reason}"
