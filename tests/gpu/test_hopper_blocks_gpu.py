"""The Hopper GEMM with scales in blocks on a GPU: scales, elements, outputs, tails, schedules."""

from typing import Any

import pytest
from rows_apart import apart

from sim import load_gpu
from tiles.kernels import Accepted
from tiles.kernels.hopper_block_gemm import HopperBlockGemm, HopperBlockGemmConfig
from tiles.problems import Gemm
from tiles.recipes import recipe

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("hopper")]

FAMILY, LIMITS = HopperBlockGemm(), load_gpu("h200").limits
SHAPES = ((256, 512, 1024), (200, 272, 336), (1, 128, 256), (1000, 2064, 4112), (96, 64, 16))
RECIPES = (
    *("jetfire", "jetfire-64", "int8-b128", "e4m3-b128", "e4m3-b1x128"),
    *("mxfp8-e4m3", "mxfp8-e5m2", "mxint8"),
)
CODES = (
    *("int8.b32x32", "int8.b64x64", "int8.b32x32+sr", "int8.b64x64+sr"),
    *("e4m3fn.b32x32", "e4m3fn.b64x64"),
)
#: Of a block that two consumers share: the tile is the block.
SHARED = ("int8.b128x128", "int8.b128x128+sr", "e4m3fn.b128x128")


def config(**fields: int) -> HopperBlockGemmConfig:
    plain = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
    plain |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}
    return HopperBlockGemmConfig.from_dict(plain | fields)


CONFIGS = {
    "two sets": config(),
    "one set": config(sets=1, store_buffers=2),
    "cluster": config(cluster=2, group_m=1, stages=5),
    "cluster, one set": config(cluster=2, sets=1),
    "narrow": config(block_n=64, stages=8, store_buffers=2),
    "narrow, one set": config(block_n=64, sets=1, cluster=2, group_m=16),
    "two stages": config(stages=2),
    "tall": config(block_m=256, block_n=64, cluster=2),
    "tall, one set": config(block_m=256, block_n=64, sets=1),
    "parts": config(parts=2, cluster=2, stages=5),
    "parts, one set": config(parts=2, sets=1),
    "parts, two stages": config(parts=2, stages=2),
    "spread": config(spread=True),
    "parts, spread": config(parts=2, spread=True),
    "parts, one set, spread": config(parts=2, sets=1, spread=True, cluster=2),
    "tall, parts, spread": config(block_m=256, block_n=64, parts=2, spread=True),
    "four, parts, spread": config(consumers=4, parts=2, spread=True, cluster=2),
    "narrow, parts": config(parts=2, block_n=64, stages=7),
    "tall, parts": config(parts=2, block_m=256, block_n=64, cluster=2),
    "four": config(consumers=4, cluster=2),
    "four, one set": config(consumers=4, sets=1, store_buffers=2),
    "four, parts": config(consumers=4, parts=2, stages=5),
    "four, parts, one set": config(consumers=4, parts=2, sets=1),
    "runs": config(parts=2, run=8, cluster=2, stages=5, spread=True),
    "runs of four": config(parts=2, run=4),
    "runs, whole": config(run=4, stages=3, spread=True),
    "runs, one set": config(parts=2, sets=1, run=8),
    "runs of four, one set": config(parts=2, sets=1, run=4, cluster=2),
    "runs, four": config(consumers=4, run=8, cluster=2),
    "runs, four, one set": config(consumers=4, sets=1, parts=2, run=4, stages=5),
    "runs, narrow": config(block_n=64, parts=2, run=8, stages=7),
    "four below each other": config(consumers=4, block_m=256, block_n=64, parts=2, cluster=2),
}
#: Rules about what the kernel cannot do; the others are about what is not worth trying.
HARD_RULES = ("tile shape", "shared block", "counts", "parts", "spread", "run", "shared memory")


def runnable(name: str, out: str = "bf16") -> dict[str, HopperBlockGemmConfig]:
    """The configurations that the kernel has for a recipe's scales."""
    problem = Gemm(m=4096, n=4096, k=4096, recipe=recipe(name), out=out)
    return {
        text: one
        for text, one in CONFIGS.items()
        if getattr(FAMILY.judge(problem, one, LIMITS), "rule", "") not in HARD_RULES
    }


def check_everywhere(name: str, out: str, part: int, parts: int) -> None:
    """Every ``parts``-th configuration from ``part`` on, at every shape that the output has."""
    configs = list(runnable(name, out).items())[part::parts]
    assert configs
    for m, n, k in SHAPES:
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)
        if FAMILY.refusal(problem, LIMITS) is not None:
            continue
        workload = FAMILY.workload(problem, device="cuda", seed=m)
        for text, one in configs:
            accuracy = workload.check(one)
            assert accuracy.ok, (problem, text, accuracy)


def test_every_field_is_among_the_configurations_of_every_kind_of_scales() -> None:
    for name in RECIPES:
        found = runnable(name).values()
        assert {one.sets for one in found} == {one.cluster for one in found} == {1, 2}, name
        if name in ("int8-b128", "e4m3-b128", "e4m3-b1x128"):  # a stage is one unit
            assert {(one.consumers, one.parts, one.spread) for one in found} == {(2, 1, False)}
            continue
        assert {(one.consumers, one.parts) for one in found} == {(2, 1), (2, 2), (4, 1), (4, 2)}
        assert {one.spread for one in found} == ({False} if name == "jetfire-64" else {False, True})


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("name", RECIPES)
def test_every_schedule_stays_within_the_bound(name: str, part: int) -> None:
    check_everywhere(name, "bf16", part, 2)


@pytest.mark.parametrize("out", ["fp16", "fp32"])
@pytest.mark.parametrize("name", RECIPES)
def test_other_outputs_stay_within_the_bound(name: str, out: str) -> None:
    check_everywhere(name, out, 1, 6)


@pytest.mark.parametrize("out", CODES)
@pytest.mark.parametrize("name", RECIPES)
def test_codes_are_those_of_the_codec_bit_for_bit(name: str, out: str) -> None:
    """Poisoned before every launch; the same launch in fp32 is what the codec quantises.

    The outputs of codes share the schedules among them: each has every sixth.
    """
    check_everywhere(name, out, CODES.index(out), len(CODES))


@pytest.mark.parametrize("out", SHARED)
@pytest.mark.parametrize("name", RECIPES)
def test_codes_of_a_block_that_consumers_share(name: str, out: str) -> None:
    """Many tiles a CTA, so that one consumer may be a tile ahead of the other."""
    check_everywhere(name, out, 0, 2 if name == "int8-b128" else 3)
    problem = Gemm(m=4096, n=2048, k=256, recipe=recipe(name), out=out)
    accuracy = FAMILY.workload(problem, device="cuda", seed=1).check(config(stages=3))
    assert accuracy.ok, (problem, accuracy)


@pytest.mark.parametrize("name", ["jetfire", "mxfp8-e4m3", "e4m3-b128"])
def test_random_configurations_of_the_space_are_right(name: str) -> None:
    import numpy as np

    problem = Gemm(m=2048, n=3072, k=1536, recipe=recipe(name), out="int8.b32x32")
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    space = FAMILY.legal_space(problem, LIMITS).accepted
    for row in np.random.default_rng(0).choice(len(space), 8, replace=False):
        one = space.config(int(row))
        assert isinstance(FAMILY.judge(problem, one, LIMITS), Accepted)
        accuracy = workload.check(one)
        assert accuracy.ok, (one, accuracy)


@pytest.mark.parametrize("name", ["jetfire", "mxfp8-e4m3"])
def test_large_products_are_right(name: str) -> None:
    problem = Gemm(m=8192, n=4096, k=8192, recipe=recipe(name), out="int8.b32x32")
    workload = FAMILY.workload(problem, device="cuda", seed=1)
    for fields in ({}, {"parts": 2, "spread": True}, {"consumers": 4, "parts": 2}):
        accuracy = workload.check(config(cluster=2, stages=5, **fields))
        assert accuracy.ok, (fields, accuracy)


def _workload(text: str, out: str, shape: tuple[int, int, int] = (256, 256, 512)) -> Any:
    m, n, k = shape
    return FAMILY.workload(Gemm(m=m, n=n, k=k, recipe=recipe(text), out=out), device="cuda", seed=0)


@pytest.mark.parametrize(
    "one",
    [
        *(config(), config(sets=1), config(parts=2), config(consumers=4, parts=2)),
        *(config(parts=2, run=8), config(parts=2, sets=1, run=4)),
    ],
    ids=["two sets", "one set", "parts", "four", "runs", "runs, one set"],
)
def test_blocks_of_zeros_and_outliers_leave_the_others_alone(one: HopperBlockGemmConfig) -> None:
    """Zero blocks have scale 1: beside tiny ones that is the largest scale there is."""
    import torch

    from tiles.formats.torch_codec import quantize_tensor
    from tiles.kernels.accuracy import compare, gemm_reference
    from tiles.kernels.accuracy_of_runs import allow_runs, scales_that_count
    from tiles.kernels.arithmetic import gemm_arithmetic
    from tiles.kernels.hopper_block_workload import exact_values

    workload = _workload("jetfire", "fp32", (256, 384, 2048))
    operands, fmt = workload.operands, workload.problem.recipe.activation
    x = torch.randn(256, 2048, device="cuda") * 1e-8
    x[:, 64:128], x[:64, 512:1024], x[130, 7] = 0, 0, 1e-3
    made = quantize_tensor(x, fmt)
    operands.a.copy_(made.codes)
    operands.a_scale.copy_(made.scales)
    workload._launcher(operands, one)()
    wanted = gemm_reference(
        exact_values(made.codes, made.scales, fmt),
        exact_values(operands.b, operands.b_scale, fmt),
        gemm_arithmetic(workload.problem, decode=False),
    )
    if one.run > 1:
        counting = (
            scales_that_count(made.codes, made.scales, 32),
            scales_that_count(operands.b, operands.b_scale, 32),
        )
        wanted = allow_runs(wanted, *counting, 2.0**-23)
    accuracy = compare(operands.c, wanted)
    assert accuracy.ok, accuracy


#: Recipes by kind of scales and fields that matter to it; each once more than elsewhere.
KINDS = {
    "32x32": ("jetfire", config(parts=2, spread=True)),
    "32x32, four": ("jetfire", config(consumers=4, parts=2)),
    "32x32, runs": ("jetfire", config(parts=2, run=8, spread=True)),
    "64x64, runs": ("jetfire-64", config(sets=1, parts=2, run=4)),
    "32x32, one set": ("jetfire", config(sets=1, store_buffers=2)),
    "64x64": ("jetfire-64", config(parts=2)),
    "64x64, four": ("jetfire-64", config(consumers=4, cluster=2)),
    "128x128": ("e4m3-b128", config(cluster=2, sets=1)),
    "1x128": ("e4m3-b1x128", config()),
    "mx": ("mxfp8-e4m3", config(parts=2, spread=True)),
    "mx, tall": ("mxfp8-e4m3", config(block_m=256, block_n=64, parts=2, cluster=2)),
    "mx, four": ("mxfp8-e4m3", config(consumers=4, parts=2, stages=5)),
}


@pytest.mark.parametrize("out", ["fp32", "int8.b32x32", "e4m3fn.b64x64"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_scale_reaches_its_rows_and_nothing_else(kind: str, out: str) -> None:
    """Of A at row 129, of B at column 200; a block of codes that holds any of it is NaN as well."""
    import torch

    name, one = KINDS[kind]
    workload = _workload(name, out, (300, 272, 512))
    operands = workload.operands
    workload._launcher(operands, one)()
    before = operands.c.clone()
    scaling = workload.problem.recipe.activation.scaling
    bad = torch.zeros(300, 272, dtype=torch.bool, device="cuda")
    for scale, at, rows in ((operands.a_scale, 129, bad), (operands.b_scale, 200, bad.t())):
        block = at // scaling.rows
        scale[block, -1] = float("nan")
        rows[block * scaling.rows : (block + 1) * scaling.rows] = True
    operands.c.view(torch.uint8).fill_(0x55)
    workload._launcher(operands, one)()
    if out == "fp32":
        assert torch.equal(operands.c.isnan(), bad)
    else:
        side = 32 if out == "int8.b32x32" else 64
        grid = torch.nn.functional.max_pool2d(bad[None].float(), side, ceil_mode=True)[0] > 0
        assert torch.equal(operands.c_scale.isnan(), grid)
        wide = grid.repeat_interleave(side, 0).repeat_interleave(side, 1)
        bad = wide[:300, :272]
        code = 0 if out.startswith("int8") else 0x7F
        assert (operands.c.view(torch.uint8)[bad] == code).all()
    good = ~bad
    assert good.any()
    bits = torch.int32 if out == "fp32" else torch.uint8
    assert torch.equal(operands.c.view(bits)[good], before.view(bits)[good])


def test_e8m0_scales_at_the_end_of_their_range_count() -> None:
    """2^-127 is a subnormal, which the launcher's compiler would flush in ordinary arithmetic."""
    import torch

    workload = _workload("mxfp8-e4m3", "fp32")
    operands = workload.operands
    workload._launcher(operands, config())()
    before = operands.c.clone()
    operands.a_scale.mul_(2.0**-120)
    operands.b_scale.mul_(2.0**120)
    assert (operands.a_scale < 2.0**-126).any()
    workload._launcher(operands, config())()
    assert torch.equal(operands.c, before)


def test_rows_may_lie_apart_and_nothing_between_is_written() -> None:
    import torch

    from tiles.kernels.hopper_block_workload import BlockOperands

    workload = _workload("mxfp8-e4m3", "bf16", (300, 272, 512))
    plain = workload.operands
    workload._launcher(plain, config(cluster=2))()
    wanted = plain.c.clone()

    grid = torch.full((16, 1024), float("nan"), device="cuda")
    scale = grid.t()[1024 - 300 :]
    scale.copy_(plain.a_scale)
    operands = BlockOperands(
        a=apart(plain.a, 16, 1024),
        b=apart(plain.b, 32, 768),
        c=apart(plain.c, 8, 512),
        a_scale=scale,
        b_scale=plain.b_scale,
    )
    workload._launcher(operands, config(cluster=2))()
    assert torch.equal(operands.c, wanted)
    around = torch.as_strided(operands.c, (300, 512 - 272), (512, 1), 8 * 512 + 272)
    assert around.isnan().all()


def test_stochastic_codes_do_not_depend_on_the_tile() -> None:
    import torch

    workload = _workload("jetfire", "int8.b32x32+sr", (512, 512, 256))
    found = []
    for one in (
        *(config(), config(block_n=64, cluster=2), config(sets=1, group_m=1)),
        *(config(parts=2), config(parts=2, spread=True), config(consumers=4, parts=2)),
    ):
        workload._launcher(workload.operands, one)()
        found.append(workload.operands.c.clone())
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("out", ["fp32", "int8.b32x32+sr"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_replays_the_launch(kind: str, out: str) -> None:
    import torch

    name, one = KINDS[kind]
    workload = _workload(name, out, (300, 272, 512))
    operands = workload.operands
    run = workload.launchers(one, 1)[0]
    run()
    wanted = operands.c.clone()
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        run()
    for _ in range(3):
        operands.c.view(torch.uint8).fill_(0x55)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(operands.c, wanted)
