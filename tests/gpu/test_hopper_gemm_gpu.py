"""The Hopper GEMM on a GPU: scale modes, elements and outputs, tails, clusters, both schedules."""

import pytest
from rows_apart import apart

from sim import load_gpu
from tiles.kernels.hopper_gemm import HopperGemm, HopperGemmConfig
from tiles.problems import Gemm
from tiles.recipes import recipe

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("hopper")]

SHAPES = ((256, 512, 1024), (200, 264, 336), (16, 1024, 512), (1, 128, 256), (1000, 2056, 4112))
RECIPES = (
    "bf16",
    "fp16",
    "e4m3-tensor",
    "e4m3-row",
    "e5m2-tensor",
    "e5m2-row",
    "deepseek-fp8",
    "e5m2-b128",
    "e4m3-b128",
    "int8-tensor",
    "int8-row",
    "int8-b128",
)


def config(**fields: int | bool) -> HopperGemmConfig:
    base = {
        "block_m": 128,
        "block_n": 128,
        "stages": 4,
        "cluster": 1,
        "group_m": 4,
        "pingpong": False,
        "store_buffers": 1,
    }
    return HopperGemmConfig.from_dict(base | fields)


CONFIGS = {
    "shared tile": config(),
    "cluster": config(cluster=2, group_m=1, stages=5),
    "turns": config(pingpong=True, store_buffers=2),
    "turns, cluster": config(pingpong=True, cluster=2, stages=6),
    "wide": config(block_n=256, cluster=2),
    "narrow": config(block_n=64, stages=6, store_buffers=2),
    "192": config(block_n=192),
    "tall": config(block_m=256),
    "tall, cluster": config(block_m=256, cluster=2),
    "narrow, cluster": config(block_n=64, cluster=2, group_m=1),
    "chained": config(chained=True),
    "chained, 112": config(block_n=112, chained=True, cluster=2, store_buffers=2),
    "chained, 160": config(block_n=160, chained=True, stages=3),
    "chained, 176": config(block_n=176, chained=True, cluster=2, group_m=1),
    "chained, 192": config(block_n=192, chained=True, stages=5),
    "chained, 256 rows": config(block_m=256, chained=True, stages=4, cluster=2),
    "chained, 256 rows, four buffers": config(
        block_m=256, chained=True, stages=3, cluster=2, store_buffers=4
    ),
    "chained, 256 rows of 112": config(block_m=256, block_n=112, chained=True, stages=3),
    "chained, 256 rows of 64": config(block_m=256, block_n=64, chained=True, stages=3, cluster=2),
    "low turns": config(block_m=64, block_n=256, pingpong=True, stages=3),
}

#: Rules about what the kernel cannot do; the others are about what is not worth trying.
HARD_RULES = ("promotion", "registers", "shared memory", "tile shape", "chain")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("out", ["bf16", "fp16", "fp32"])
def test_every_schedule_stays_within_the_bound(name: str, out: str) -> None:
    """To bf16 all of them; to other outputs, which the epilogue alone looks at, two that differ."""
    family, limits = HopperGemm(), load_gpu("h200").limits
    tried = 0
    configs = dict(CONFIGS)
    if out != "bf16":
        first = RECIPES.index(name) % len(CONFIGS)
        configs = {
            text: CONFIGS[text] for text in ("narrow", "cluster", *list(CONFIGS)[first:][:1])
        }
    for m, n, k in SHAPES:
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)
        assert family.refusal(problem, limits) is None
        workload = family.workload(problem, device="cuda", seed=m)
        for text, one in configs.items():
            broken = family.judge(problem, one, limits)
            if getattr(broken, "rule", "") in HARD_RULES:
                continue
            accuracy = workload.check(one)
            assert accuracy.ok, (problem, text, accuracy)
            tried += 1
    assert tried >= (2 if out != "bf16" else 3) * len(SHAPES)


def test_rows_and_scales_may_lie_apart() -> None:
    import torch

    from tiles.kernels.gemm_workload import Operands

    problem = Gemm(m=300, n=264, k=512, recipe=recipe("deepseek-fp8"))
    workload = HopperGemm().workload(problem, device="cuda", seed=0)
    plain = workload.operands
    workload._launcher(plain, config(cluster=2))()
    wanted = plain.c.clone()

    # The last rows of a larger grid of scales: nothing behind them belongs to anybody.
    grid = torch.full((4, 1024), float("nan"), device="cuda")
    scale = grid.t()[1024 - 300 :]
    scale.copy_(plain.a_scale)
    operands = Operands(
        a=apart(plain.a, 16, 1024),
        b=apart(plain.b, 32, 768),
        c=apart(plain.c, 8, 512),
        a_scale=scale,
        b_scale=plain.b_scale,
    )
    workload._launcher(operands, config(cluster=2))()
    assert torch.equal(operands.c, wanted)
    around = torch.as_strided(operands.c, (300, 512 - 264), (512, 1), 8 * 512 + 264)
    assert around.isnan().all()


def test_a_nan_scale_poisons_its_rows_and_nothing_else() -> None:
    import torch

    problem = Gemm(m=256, n=256, k=512, recipe=recipe("deepseek-fp8"))
    workload = HopperGemm().workload(problem, device="cuda", seed=0)
    operands = workload.operands
    operands.a_scale[3, 1] = float("nan")
    operands.c.fill_(1.0)
    workload._launcher(operands, config())()
    bad = operands.c.isnan()
    assert bad[3].all()
    assert not bad[torch.arange(256) != 3].any()


def test_a_graph_replays_the_launch() -> None:
    import torch

    problem = Gemm(m=512, n=512, k=512, recipe=recipe("e4m3-row"))
    workload = HopperGemm().workload(problem, device="cuda", seed=0)
    run = workload.launchers(config(pingpong=True), 1)[0]
    run()
    wanted = workload.operands.c.clone()
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        run()
    workload.operands.c.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(workload.operands.c, wanted)
