"""The Hopper GEMM with scales in blocks on a GPU: scales, elements, outputs, tails, schedules."""

from typing import Any

import pytest

from sim import load_gpu
from tiles.kernels import Accepted
from tiles.kernels.hopper_block_gemm import HopperBlockGemm, HopperBlockGemmConfig
from tiles.problems import Gemm
from tiles.recipes import recipe

pytestmark = pytest.mark.gpu

FAMILY = HopperBlockGemm()
SHAPES = ((256, 512, 1024), (200, 272, 336), (1, 128, 256), (1000, 2064, 4112), (96, 64, 16))
RECIPES = (
    *("jetfire", "jetfire-64", "int8-b128", "e4m3-b128", "e4m3-b1x128"),
    *("mxfp8-e4m3", "mxfp8-e5m2", "mxint8"),
)
CODES = (
    *("int8.b32x32", "int8.b64x64", "int8.b32x32+sr", "int8.b64x64+sr"),
    *("e4m3fn.b32x32", "e4m3fn.b64x64"),
)


def config(**fields: int) -> HopperBlockGemmConfig:
    plain = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
    plain |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False}
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
    "four below each other": config(consumers=4, block_m=256, block_n=64, parts=2, cluster=2),
}
#: Rules about what the kernel cannot do; the others are about what is not worth trying.
HARD_RULES = ("tile shape", "counts", "parts", "spread", "shared memory")


@pytest.fixture(autouse=True)
def hopper() -> None:
    import torch

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is for capability 9.0")


def check_everywhere(name: str, out: str, shapes: tuple[tuple[int, int, int], ...]) -> None:
    limits = load_gpu("h200").limits
    tried = 0
    for m, n, k in shapes:
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)
        if FAMILY.refusal(problem, limits) is not None:
            continue
        workload = FAMILY.workload(problem, device="cuda", seed=m)
        for text, one in CONFIGS.items():
            verdict = FAMILY.judge(problem, one, limits)
            if getattr(verdict, "rule", "") in HARD_RULES:
                continue
            accuracy = workload.check(one)
            assert accuracy.ok, (problem, text, accuracy)
            tried += 1
    assert tried >= 10


@pytest.mark.parametrize("out", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_schedule_stays_within_the_bound(name: str, out: str) -> None:
    check_everywhere(name, out, SHAPES)


@pytest.mark.parametrize("out", CODES)
@pytest.mark.parametrize("name", RECIPES)
def test_codes_are_those_of_the_codec_bit_for_bit(name: str, out: str) -> None:
    """Poisoned before every launch; the same launch in fp32 is what the codec quantises."""
    check_everywhere(name, out, SHAPES)


@pytest.mark.parametrize("name", ["jetfire", "mxfp8-e4m3", "e4m3-b128"])
def test_random_configurations_of_the_space_are_right(name: str) -> None:
    import numpy as np

    limits = load_gpu("h200").limits
    problem = Gemm(m=2048, n=3072, k=1536, recipe=recipe(name), out="int8.b32x32")
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    space = FAMILY.legal_space(problem, limits).accepted
    for row in np.random.default_rng(0).choice(len(space), 24, replace=False):
        one = space.config(int(row))
        assert isinstance(FAMILY.judge(problem, one, limits), Accepted)
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
    [config(), config(sets=1), config(parts=2), config(consumers=4, parts=2)],
    ids=["two sets", "one set", "parts", "four"],
)
def test_blocks_of_zeros_and_outliers_leave_the_others_alone(one: HopperBlockGemmConfig) -> None:
    """Zero blocks have scale 1: beside tiny ones that is the largest scale there is."""
    import torch

    from tiles.formats.torch_codec import quantize_tensor
    from tiles.kernels.accuracy import compare, gemm_arithmetic, gemm_reference
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
    accuracy = compare(operands.c, wanted)
    assert accuracy.ok, accuracy


@pytest.mark.parametrize("out", ["fp32", "int8.b32x32", "e4m3fn.b32x32"])
def test_a_nan_scale_poisons_its_rows_and_nothing_else(out: str) -> None:
    import torch

    workload = _workload("jetfire", out)
    operands = workload.operands
    workload._launcher(operands, config())()
    before = operands.c.clone()
    operands.a_scale[3, 1] = float("nan")
    workload._launcher(operands, config())()
    rows = torch.arange(256, device="cuda")
    bad = (rows >= 96) & (rows < 128)
    assert torch.equal(operands.c.view(torch.uint8)[~bad], before.view(torch.uint8)[~bad])
    if out == "fp32":
        assert operands.c[bad].isnan().all()
        return
    assert operands.c_scale[3].isnan().all()
    assert operands.c_scale.isnan().sum() == operands.c_scale.shape[1]
    poisoned = 0 if out.startswith("int8") else 0x7F
    assert (operands.c.view(torch.uint8)[bad] == poisoned).all()


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

    def apart(tensor: torch.Tensor, rows: int, pitch: int) -> torch.Tensor:
        bits = torch.uint8 if tensor.element_size() == 1 else tensor.dtype
        wide = torch.full((rows + tensor.shape[0] + 8, pitch), 0x7F, device="cuda").to(bits)
        if bits.is_floating_point:
            wide.fill_(float("nan"))
        held = wide[rows : rows + tensor.shape[0], : tensor.shape[1]]
        held.copy_(tensor.view(bits))
        return held.view(tensor.dtype)

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


@pytest.mark.parametrize("out", ["bf16", "int8.b32x32+sr"])
def test_a_graph_replays_the_launch(out: str) -> None:
    import torch

    workload = _workload("jetfire", out, (512, 512, 512))
    operands = workload.operands
    run = workload.launchers(config(), 1)[0]
    run()
    wanted = operands.c.clone()
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        run()
    operands.c.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(operands.c, wanted)
    run()
    assert torch.equal(operands.c, wanted)  # the same every time
