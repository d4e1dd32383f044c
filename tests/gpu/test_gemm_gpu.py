"""The scaled GEMM on a real GPU: every recipe, tails, descriptors, persistence, graphs."""

from dataclasses import replace

import pytest

from sim import load_gpu
from tiles.kernels import Accepted, Rejected
from tiles.kernels.gemm import GemmConfig, TritonGemm
from tiles.problems import Gemm, parse_problem
from tiles.recipes import RECIPES, Recipe

pytestmark = pytest.mark.gpu

PLAIN = GemmConfig(
    block_m=128,
    block_n=128,
    block_k=32,
    group_m=8,
    num_warps=8,
    num_stages=3,
    tma=False,
    persistent=False,
)
TMA = replace(PLAIN, tma=True)
VARIANTS = {
    "pointers": PLAIN,
    "pointers persistent": replace(PLAIN, persistent=True),
    "tma": TMA,
    "tma persistent": replace(TMA, persistent=True),
    "tma persistent wide": replace(TMA, persistent=True, block_n=256),
    "small tile": replace(PLAIN, block_m=16, block_n=64, num_warps=4),
}


def gemm(text: str) -> Gemm:
    problem = parse_problem(text)
    assert isinstance(problem, Gemm)
    return problem


#: One recipe of each product that the kernel computes, whatever the GPU's limits.
PRODUCTS = [
    name
    for name in {(r.activation, r.weight): n for n, r in reversed(RECIPES.items())}.values()
    if TritonGemm().refusal(gemm(f"gemm:64x64x64:{name}:bf16"), load_gpu("h200").limits) is None
]


def deepest(problem: Gemm, config: GemmConfig) -> GemmConfig:
    """The configuration with the K-iteration that is usual for the recipe."""
    recipe = problem.recipe
    scalings = (recipe.activation.scaling, recipe.weight.scaling)
    columns = [s.cols for s in scalings if s is not None and s.cols is not None]
    usual = 64 if recipe.activation.element.bits == 16 else 128
    return replace(config, block_k=min([usual, *columns]))


def need(config: GemmConfig) -> None:
    import torch

    if config.tma and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("no tensor memory access")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_recipe_lies_within_its_bounds(name: str, variant: str) -> None:
    from tiles.kernels.gemm_workload import GemmWorkload

    config = VARIANTS[variant]
    need(config)
    # Tails in M and N everywhere; in K too, where descriptors allow it (multiples of 16 bytes).
    shapes = ["1100x1032x2096"] if config.tma else ["1100x1032x2096", "333x517x1001"]
    for shape in shapes:
        problem = gemm(f"gemm:{shape}:{name}:bf16")
        chosen = deepest(problem, config)
        for out in ("bf16", "fp32"):
            workload = GemmWorkload(replace(problem, out=out), device="cuda", seed=1)
            verdict = workload.check(chosen)
            assert verdict.ok, f"{problem} {chosen}: {verdict.reason}"


@pytest.mark.parametrize(
    ("activation", "weight"),
    [
        ("e4m3fn.b1x128", "e5m2.tensor"),
        ("e5m2.row", "e4m3fn.b128x128"),
        ("int8.b32x32", "int8.row"),
        ("e4m3fn", "e4m3fn.row"),
    ],
)
def test_sides_may_differ_in_scaling(activation: str, weight: str) -> None:
    from tiles.kernels.gemm_workload import GemmWorkload

    pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    problem = Gemm(m=333, n=517, k=1001, recipe=pair, out="fp32")
    verdict = GemmWorkload(problem, device="cuda", seed=4).check(deepest(problem, PLAIN))
    assert verdict.ok, verdict.reason


@pytest.mark.parametrize(
    "name", ["e4m3-tensor", "e5m2-row", "deepseek-fp8", "e5m2-b128", "unit-scaling"]
)
def test_decoded_8_bit_floats_are_as_exact_as_fp16(name: str) -> None:
    from tiles.kernels.gemm_workload import GemmWorkload

    problem = gemm(f"gemm:300x264x1040:{name}:fp32")
    workload = GemmWorkload(problem, device="cuda", seed=2, decode=True)
    verdict = workload.check(deepest(problem, PLAIN))
    assert verdict.ok, verdict.reason
    assert verdict.relative_rms < 1e-5


@pytest.mark.parametrize("tma", [False, True])
def test_offsets_beyond_two_to_the_31(tma: bool) -> None:
    from tiles.kernels.gemm_workload import GemmWorkload

    config = replace(PLAIN, tma=tma, block_k=128)
    need(config)
    # C has 2^31 + elements; its last tile is only right with 64-bit offsets.
    problem = gemm("gemm:131200x16512x128:e4m3-row:bf16")
    assert problem.m * problem.n > 2**31
    verdict = GemmWorkload(problem, device="cuda", seed=3).check(config)
    assert verdict.ok, verdict.reason
    # The same for A.
    problem = gemm("gemm:262400x64x8256:int8-row:bf16")
    assert problem.m * problem.k > 2**31
    verdict = GemmWorkload(problem, device="cuda", seed=3).check(replace(config, block_n=64))
    assert verdict.ok, verdict.reason


#: Modes beyond one program a tile.
MODES = {
    "split": replace(PLAIN, block_m=64, block_n=64, num_warps=4, split_k=3),
    "split tma": replace(TMA, split_k=5),
    "stream": replace(PLAIN, persistent=True, stream_k=True),
    "stream tma": replace(TMA, persistent=True, stream_k=True),
    "four parts": replace(TMA, persistent=True, subtiles=4),
    "one part": replace(TMA, persistent=True, subtiles=1, num_stages=2),
    "overlap": replace(PLAIN, overlap=True),
    "overlap tma": replace(TMA, overlap=True, persistent=True),
    "overlap in shares": replace(TMA, overlap=True, split_k=2),
    "specialized": replace(TMA, num_warps=4, specialize=True),
    "specialized tall": replace(TMA, block_m=256, block_n=64, num_warps=4, specialize=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_mode_lies_within_the_same_bounds(name: str, mode: str) -> None:
    import torch

    from tiles.kernels.gemm_workload import GemmWorkload

    config = MODES[mode]
    need(config)
    major = torch.cuda.get_device_capability()[0]
    if config.specialize and major != 9:
        pytest.skip("warps are specialised on Hopper")
    problem = gemm(f"gemm:700x1032x2096:{name}:bf16")
    chosen = deepest(problem, config)
    if config.overlap and not problem.recipe.blockwise:
        pytest.skip("nothing is promoted")
    legal = TritonGemm().judge(problem, chosen, load_gpu("h200").limits)
    if config.specialize and isinstance(legal, Rejected) and legal.rule == "specialize":
        pytest.skip(legal.reason)
    workload = GemmWorkload(problem, device="cuda", seed=1)
    run = workload.launchers(chosen, 1)[0]
    results = []
    for _ in range(3):  # counters are left at zero, and the answer does not depend on who is last
        workload.operands.c.fill_(float("nan"))
        run()
        results.append(workload.operands.c.clone())
    verdict = workload.check(chosen)
    assert verdict.ok, f"{problem} {chosen}: {verdict.reason}"
    for result in results:
        assert torch.equal(result, workload.operands.c)


@pytest.mark.parametrize("mode", ["split", "stream"])
@pytest.mark.parametrize("shape", ["1x1x40000", "33x70x4097", "16x8192x8192", "300x4100x333"])
def test_shares_of_k_at_every_shape(shape: str, mode: str) -> None:
    from tiles.kernels.gemm_workload import GemmWorkload

    for name in ("bf16", "int8-row", "deepseek-fp8"):
        problem = gemm(f"gemm:{shape}:{name}:fp32")
        verdict = GemmWorkload(problem, device="cuda", seed=7).check(deepest(problem, MODES[mode]))
        assert verdict.ok, f"{problem}: {verdict.reason}"


@pytest.mark.parametrize(
    "variant", ["pointers", "tma persistent", "split tma", "stream tma", "specialized", "overlap"]
)
def test_launches_inside_a_cuda_graph(variant: str) -> None:
    import torch

    from tiles.kernels.accuracy import compare
    from tiles.kernels.gemm_workload import GemmWorkload

    config = {**VARIANTS, **MODES}[variant]
    need(config)
    if config.specialize and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("warps are specialised on Hopper")
    problem = gemm("gemm:512x512x1024:deepseek-fp8:bf16")
    workload = GemmWorkload(problem, device="cuda", seed=4)
    run = workload.launchers(deepest(problem, config), 1)[0]
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    workload.operands.c.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    verdict = compare(workload.operands.c, workload.reference())
    assert verdict.ok, verdict.reason


def test_precompiled_kernel_is_the_launched_one() -> None:
    from tiles.kernels.gemm_workload import GemmWorkload
    from tiles.kernels.triton.gemm_scaled import gemm_scaled

    problem = gemm("gemm:384x384x384:e4m3-row:fp16")
    workload = GemmWorkload(problem, device="cuda", seed=5)
    config = deepest(problem, PLAIN)
    workload.compile(config)
    caches = gemm_scaled.device_caches
    known = {device: len(cache[0]) for device, cache in caches.items()}
    assert workload.check(config).ok
    assert {device: len(cache[0]) for device, cache in caches.items()} == known


def test_legal_configurations_run() -> None:
    """A sample of the space that the legality gate passed compiles, launches and is right."""
    import torch

    from tiles.kernels.gemm_workload import GemmWorkload

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the limits are those of Hopper")
    limits = load_gpu("h200").limits
    family = TritonGemm()
    for name in ("bf16", "e4m3-row", "deepseek-fp8", "jetfire"):
        problem = gemm(f"gemm:1000x1000x1024:{name}:bf16")
        workload = GemmWorkload(problem, device="cuda", seed=6)
        space = family.legal_space(problem, limits).accepted
        default = family.default(problem, limits)
        assert isinstance(family.judge(problem, default, limits), Accepted)
        step = len(space) // 6
        for config in [default, *(space.config(row) for row in range(step // 2, len(space), step))]:
            verdict = workload.check(config)
            assert verdict.ok, f"{name} {config}: {verdict.reason}"
