"""The Hopper product of aligned MX operands on a GPU: its bytes, its bound, tails, nasty data."""

from typing import Any

import numpy as np
import pytest
from stages import fitting

from sim import load_gpu
from tiles.kernels.hopper_aligned_gemm import HopperAlignedConfig, HopperAlignedGemm
from tiles.problems import Gemm
from tiles.recipes import recipe

pytestmark = pytest.mark.gpu

FAMILY, LIMITS = HopperAlignedGemm(), load_gpu("h200").limits
ELEMENTS = ("e4m3fn", "e5m2")
#: One row, tails of every extent, K shorter than 128 and than 32, several tiles and clusters.
SHAPES = (
    (1, 128, 256),
    (5, 264, 16),
    (130, 136, 80),
    (300, 520, 1296),
    (1000, 1032, 2064),
    (512, 2112, 7168),
)
HARD_RULES = ("tile shape", "counts", "registers", "shared memory")


def config(**fields: int) -> HopperAlignedConfig:
    base = {"block_m": 256, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
    return HopperAlignedConfig.from_dict(base | {"store_buffers": 1} | fields)


CONFIGS = {
    "256x128": config(),
    "256x128, shared": config(cluster=2, stages=3, store_buffers=2),
    "256x112": config(block_n=112, group_m=1),
    "256x64": config(block_n=64, stages=5, store_buffers=4),
    "128x128": config(block_m=128, stages=6),
    "128x128, shared": config(block_m=128, cluster=2, stages=5, group_m=8),
    "128x160": config(block_m=128, block_n=160),
    "128x176": config(block_m=128, block_n=176, cluster=2),
    "128x192": config(block_m=128, block_n=192, stages=5),
    "128x112": config(block_m=128, block_n=112, stages=7),
}


@pytest.fixture(autouse=True)
def hopper() -> None:
    import torch

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is for capability 9.0")


def launched_alignment(
    operands: list[tuple[np.ndarray, np.ndarray]], element: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the first of both kernels writes of codes and exponents, with rows apart."""
    import torch

    from tiles.kernels.cuda import align_mx_scales

    k = operands[0][0].shape[1]
    held, sides = [], []
    for codes, exponents in operands:
        rows = codes.shape[0]
        apart = -(-rows // 4) * 4
        wide = torch.full((rows, k + 32), 0xEE, dtype=torch.uint8, device="cuda")
        wide[:, :k] = torch.from_numpy(codes)
        scales = torch.from_numpy(np.ascontiguousarray(exponents)).cuda()
        out = torch.full((rows, k + 16), 0xEE, dtype=torch.uint8, device="cuda")
        columns = torch.full((-(-k // 128) + 1, apart), -7.0, device="cuda")
        source, exponent, target, column = (t.data_ptr() for t in (wide, scales, out, columns))
        sides.append(
            align_mx_scales.Side(source, exponent, target, column, k + 32, k + 16, apart, rows)
        )
        held.append((wide, scales, out, columns, rows))
    align_mx_scales.launch(torch.cuda.current_device(), sides, k, element=element)
    torch.cuda.synchronize()
    found = []
    for _, _, out, columns, rows in held:
        assert bool((out[:, k:] == 0xEE).all()), "written behind a row"
        assert bool((columns[-1] == -7.0).all()), "written behind the scales"
        assert bool((columns[:, rows:] == -7.0).all()), "written behind a column"
        found.append((out[:, :k].cpu().numpy(), columns[:-1, :rows].T.cpu().numpy()))
    return found


def same_codes(got: np.ndarray, wanted: np.ndarray, element: str) -> bool:
    """The instruction that makes codes of e4m3fn has one NaN: its sign does not count."""
    if element == "e4m3fn":
        got, wanted = (np.where((x & 0x7F) == 0x7F, 0x7F, x) for x in (got, wanted))
    return bool((got == wanted).all())


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_code_is_shifted_as_the_twin_does_by_every_difference(element: str) -> None:
    from tiles.kernels.mx_alignment import align

    codes = np.arange(256, dtype=np.uint8).reshape(8, 32)
    rows = np.zeros((8 * 256, 128), np.uint8)
    exponents = np.zeros((8 * 256, 4), np.uint8)
    for shift in range(256):
        place = slice(8 * shift, 8 * shift + 8)
        rows[place, :32], rows[place, 64] = codes, 0x78 if shift % 2 else 1
        exponents[place, 2] = shift
    operand = (rows, exponents)
    for got, scales in launched_alignment([operand, (rows[:9], exponents[:9])], element):
        wanted, wanted_scales = align(rows[: len(got)], exponents[: len(got)], element)
        assert same_codes(got, wanted, element)
        np.testing.assert_array_equal(scales, wanted_scales)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(("m", "n", "k"), [(33, 70, 656), (1, 300, 48), (257, 31, 1040)])
def test_nasty_operands_are_aligned_to_the_twins_bytes(
    element: str, m: int, n: int, k: int
) -> None:
    from tiles.kernels.mx_alignment import align

    operands = [nasty(rows, k, element, seed=rows + k) for rows in (m, n)]
    for given, (got, scales) in zip(operands, launched_alignment(operands, element), strict=True):
        wanted, wanted_scales = align(*given, element)
        assert same_codes(got, wanted, element)
        np.testing.assert_array_equal(scales, wanted_scales)


def nasty(
    rows: int, k: int, element: str, *, seed: int, numbers: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """All codes and exponents, blocks of zeros, half a block of zeros, one huge block of four.

    Args:
        numbers: no NaN and no infinity, and exponents that products can bear.
    """
    rng = np.random.default_rng(seed)
    blocks = -(-k // 32)
    codes = rng.integers(0, 256, (rows, k)).astype(np.uint8)
    kind = rng.integers(0, 9, (rows, blocks))
    for block in range(blocks):
        place = slice(32 * block, min(32 * block + 32, k))
        codes[kind[:, block] == 0, place] &= 0x80
        codes[kind[:, block] == 1, place.start : place.start + 16] = 0
        codes[kind[:, block] == 2, place] &= 0x83  # subnormal ones
        codes[kind[:, block] == 3, place] &= 0x9F  # small ones
    exponents = rng.integers(120, 124, (rows, blocks))
    exponents[:, ::4] += rng.integers(0, 12, (rows, len(range(0, blocks, 4))))
    if numbers:
        top = 0x7E if element == "e4m3fn" else 0x7B
        codes = (codes & 0x80) | np.minimum(codes & 0x7F, top).astype(np.uint8)
    else:
        wild = rng.random((rows, blocks)) < 0.1
        exponents = np.where(wild, rng.integers(0, 256, exponents.shape), exponents)
    return codes, exponents.astype(np.uint8)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("out", ["bf16", "fp32"])
def test_every_configuration_stays_within_the_bound(element: str, out: str) -> None:
    name = {"e4m3fn": "mxfp8-e4m3", "e5m2": "mxfp8-e5m2"}[element]
    tried = 0
    for m, n, k in SHAPES:
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)
        assert FAMILY.refusal(problem, LIMITS) is None
        workload = FAMILY.workload(problem, device="cuda", seed=m)
        for text, one in CONFIGS.items():
            if getattr(FAMILY.judge(problem, one, LIMITS), "rule", "") in HARD_RULES:
                continue
            accuracy = workload.check(one)
            assert accuracy.ok, (problem, text, accuracy)
            tried += 1
        assert workload.check(FAMILY.default(problem, LIMITS)).ok
    assert tried >= 8 * len(SHAPES)


def opened(
    shape: tuple[int, int, int], element: str, seed: int, *, numbers: bool, out: str = "fp32"
) -> tuple[Any, Any, list[tuple[np.ndarray, np.ndarray]]]:
    """A workload, its operands with nasty ones in their place, and these."""
    import torch

    name = {"e4m3fn": "mxfp8-e4m3", "e5m2": "mxfp8-e5m2"}[element]
    m, n, k = shape
    problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)
    workload: Any = FAMILY.workload(problem, device="cuda", seed=0)
    given = [nasty(rows, k, element, seed=seed + i, numbers=numbers) for i, rows in
             enumerate((m, n))]  # fmt: skip
    operands = workload.operands
    for side, (codes, exponents) in zip(("a", "b"), given, strict=True):
        getattr(operands, side).view(torch.uint8).copy_(torch.from_numpy(codes))
        getattr(operands, f"{side}_scale").copy_(torch.from_numpy(exponents))
    return workload, operands, given


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("text", ["256x128", "128x192", "128x128, shared"])
def test_the_product_is_that_of_the_aligned_operands(element: str, text: str) -> None:
    """Errors beside the alignment's are those of the tensor cores and of fp32."""
    import torch

    from tiles.formats import decode
    from tiles.formats import element as lookup
    from tiles.kernels.mx_alignment import align

    workload, operands, given = opened((300, 264, 656), element, 5, numbers=True)
    workload.launchers(CONFIGS[text], 1)[0]()
    values = []
    for codes, exponents in given:
        aligned, scales = align(codes, exponents, element)
        spread = scales.astype(np.float64).repeat(128, axis=1)[:, : codes.shape[1]]
        values.append(torch.from_numpy(decode(aligned, lookup(element)) * spread).cuda())
    wanted = values[0] @ values[1].T
    size = values[0].abs() @ values[1].abs().T
    error = (operands.c.double() - wanted).abs()
    # 14 bits of each addend's largest, 128 of K at a time, and sums in fp32.
    assert bool((error <= 2.0**-9 * size + 1e-30).all()), float((error / size).max())
    assert float(error.norm() / wanted.norm()) < 2.0**-9


@pytest.mark.parametrize("element", ELEMENTS)
def test_nan_codes_and_scales_reach_their_rows_and_nothing_else(element: str) -> None:
    import torch

    workload, operands, _ = opened((300, 264, 656), element, 9, numbers=True)
    operands.a.view(torch.uint8)[7, 600] = 0x7F
    operands.a_scale[9, 20] = 0xFF  # the last block, shorter than 32
    operands.b_scale[11, 3] = 0xFF
    operands.a.view(torch.uint8)[13, 128:256] = 0
    operands.a_scale[13, 5] = 0xFF  # a NaN scale over zeros
    workload.launchers(CONFIGS["256x128"], 1)[0]()
    bad = operands.c.isnan()
    rows, columns = torch.tensor([7, 9, 13], device="cuda"), 11
    assert bool(bad[rows].all())
    assert bool(bad[:, columns].all())
    bad[rows] = False
    bad[:, columns] = False
    assert not bool(bad.any())


def test_scales_at_the_ends_of_their_range() -> None:
    """2^-127, which fp32 holds as a subnormal number, against 2^127; zeros under any scale."""
    import torch

    workload, operands, _ = opened((40, 136, 256), "e4m3fn", 1, numbers=True)
    operands.a.view(torch.uint8).fill_(0x38)
    operands.b.view(torch.uint8).fill_(0x38)
    operands.a_scale.fill_(0)
    operands.b_scale.fill_(254)
    operands.a.view(torch.uint8)[3] = 0
    operands.a_scale[3] = 254
    workload.launchers(CONFIGS["128x128"], 1)[0]()
    wanted = torch.full((40, 136), 256.0, device="cuda")
    wanted[3] = 0
    assert torch.equal(operands.c, wanted)


def test_nothing_is_written_around_c_and_rows_may_lie_apart() -> None:
    import torch

    from tiles.kernels.gemm_workload import Operands

    problem = Gemm(m=300, n=264, k=656, recipe=recipe("mxfp8-e4m3"))
    workload: Any = FAMILY.workload(problem, device="cuda", seed=0)
    plain: Operands = workload.operands
    for text, wished in CONFIGS.items():
        one = fitting(FAMILY, problem, wished, LIMITS)
        workload._launcher(plain, one)()
        wanted = plain.c.clone()
        wide = torch.full((320, 512), float("nan"), device="cuda", dtype=plain.c.dtype)
        held = wide[8:308, 64 : 64 + 264]
        apart = torch.zeros((300, 1024), dtype=torch.uint8, device="cuda")
        apart[:, 16 : 16 + 656] = plain.a.view(torch.uint8)
        a = apart[:, 16 : 16 + 656].view(plain.a.dtype)
        scales = {"a_scale": plain.a_scale, "b_scale": plain.b_scale}
        workload._launcher(Operands(a=a, b=plain.b, c=held, **scales), one)()
        assert torch.equal(held, wanted), text
        held.fill_(float("nan"))
        assert bool(wide.isnan().all()), text


def test_replays_from_a_graph_with_new_operands_and_gives_the_same_bits() -> None:
    import torch

    problem = Gemm(m=512, n=520, k=2064, recipe=recipe("mxfp8-e4m3"))
    workload: Any = FAMILY.workload(problem, device="cuda", seed=0)
    operands = workload.operands
    run = workload.launchers(CONFIGS["256x128, shared"], 1)[0]
    run()
    torch.cuda.synchronize()
    first = operands.c.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(20):
        operands.c.fill_(float("nan"))
        graph.replay()
        assert torch.equal(operands.c, first)
    operands.a_scale.view(torch.uint8).add_(1)  # twice the scales, twice the product
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(operands.c.float(), 2 * first.float())
