"""Weight-only products on a real GPU: every code, format, tails, split K, graphs, the space."""

from dataclasses import replace
from typing import Any

import pytest

from sim import gpu_names, load_gpu
from tiles.kernels import Accepted, ConfigTable
from tiles.kernels.weight_only import TritonWeightOnly, WeightOnlyConfig
from tiles.problems import Gemm
from tiles.recipes import Recipe

pytestmark = pytest.mark.gpu

FAMILY = TritonWeightOnly()
NARROW = WeightOnlyConfig(
    block_m=8,
    block_n=64,
    group_m=1,
    split_k=4,
    num_warps=4,
    num_stages=4,
    tma=False,
    fold=False,
)
SQUARE = replace(NARROW, block_m=128, block_n=128, group_m=8, split_k=1, num_warps=8, num_stages=3)
VARIANTS = {
    "narrow": NARROW,
    "narrow, two warps": replace(NARROW, num_warps=2, split_k=1),
    "tall": replace(NARROW, block_n=256),
    "wgmma, 16 columns": replace(NARROW, block_m=16),
    "wgmma, 64 columns": replace(NARROW, block_m=64, block_n=128, num_stages=2),
    "square": SQUARE,
    "square, 4 warps": replace(SQUARE, block_m=64, num_warps=4),
    "square, tma": replace(SQUARE, tma=True),
    "narrow, tma": replace(NARROW, tma=True),
}
FORMATS = [
    ("bf16", "int4.g128"),
    ("fp16", "int4.g128"),
    ("bf16", "int4.g64"),
    ("bf16", "int4.g32"),
    ("bf16", "int4.row"),
    ("bf16", "uint4.g128"),
    ("fp16", "uint4.g64"),
    ("bf16", "uint4.g32"),
    ("bf16", "int8.row"),
    ("fp16", "int8.g128"),
    ("bf16", "e4m3fn.row"),
    ("fp16", "e4m3fn.row"),
    ("bf16", "e4m3fn.g128"),
    ("bf16", "e2m1fn.mx"),
    ("bf16", "nvfp4"),
    ("fp16", "nvfp4"),
]


def limits() -> Any:
    import torch

    name = torch.cuda.get_device_name()
    found = [g for g in map(load_gpu, gpu_names()) if g.matches(name)]
    return found[0].limits if found else pytest.skip(f"no file describes {name}")


def problem_of(formats: tuple[str, str], shape: tuple[int, int, int], out: str = "bf16") -> Gemm:
    activation, weight = formats
    pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    m, n, k = shape
    return Gemm(m=m, n=n, k=k, recipe=pair, out=out)


def folds(problem: Gemm, config: WeightOnlyConfig) -> list[WeightOnlyConfig]:
    """The configuration with every treatment of scales that the format has."""
    both = ConfigTable.of([replace(config, fold=fold) for fold in (False, True)])
    rules = [r for r in FAMILY.rules(problem, both, load_gpu("h200").limits) if r.name == "fold"]
    return [c for row, c in enumerate(both) if not rules[0].broken[row]]  # type: ignore[misc]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("formats", FORMATS, ids=lambda f: " by ".join(f))
def test_every_format_lies_within_its_bounds(formats: tuple[str, str], variant: str) -> None:
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    config, has_tma = VARIANTS[variant], "tma" in limits().features
    if config.tma and not has_tma:
        pytest.skip("no tensor memory access")
    # Tails everywhere; where descriptors allow it in K as well (multiples of 16 bytes).
    shapes = [(13, 1032, 2096), (333, 1032, 1304)]
    if not config.tma:
        shapes += [(1, 517, 1001), (7, 40, 4100)]
    for shape in shapes:
        for out in ("bf16", "fp32"):
            problem = problem_of(formats, shape, out)
            workload = WeightOnlyWorkload(problem, device="cuda", seed=1)
            for chosen in folds(problem, config):
                verdict = workload.check(chosen)
                assert verdict.ok, f"{problem} {chosen}: {verdict.reason}"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("activation", "name", "bits"),
    [
        (activation, name, bits)
        for activation in ("bf16", "fp16")
        for name, bits in (("int4", 4), ("e2m1fn", 4), ("int8", 8), ("e4m3fn", 8))
    ],
)
def test_every_code_decodes_exactly(activation: str, name: str, bits: int, variant: str) -> None:
    """Activations of an identity matrix bring the weights themselves out."""
    import torch

    from tiles.formats import element, pack_codes
    from tiles.formats.torch_encode import decode
    from tiles.kernels.triton import gemm_weight_only
    from tiles.kernels.triton.weight_arguments import workspace_words
    from tiles.kernels.triton.weight_layout import pack

    config = VARIANTS[variant]
    if config.tma and "tma" not in limits().features:
        pytest.skip("no tensor memory access")
    k, n = 512, 256
    rows, cols = torch.arange(n)[:, None], torch.arange(k)[None, :]
    codes = ((rows + 37 * cols) % (1 << bits)).to(torch.uint8)
    if name == "e4m3fn":
        codes[(codes & 0x7F) == 0x7F] = 0  # a NaN would spoil its row
    wanted = decode(codes, element(name)).T.cuda()
    packed = pack(pack_codes(codes, bits).cuda(), torch.ones(n, 1).cuda(), element=name, columns=k)
    dtype = torch.bfloat16 if activation == "bf16" else torch.float16
    c = torch.full((k, n), float("nan"), device="cuda")
    words = workspace_words(config.to_dict(), k, n)
    gemm_weight_only.launch(
        torch.eye(k, dtype=dtype, device="cuda"),
        packed,
        c,
        config=config.to_dict(),
        workspace=torch.zeros(words, dtype=torch.int32, device="cuda") if words else None,
    )
    assert torch.equal(c, wanted)


def test_legal_configurations_run() -> None:
    """A sample of the space that the legality gate passed compiles, launches and is right."""
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    here = limits()
    for formats in (("bf16", "int4.g128"), ("fp16", "int8.row"), ("bf16", "nvfp4")):
        for m in (4, 48, 2048):
            problem = problem_of(formats, (m, 2048, 4096))
            workload = WeightOnlyWorkload(problem, device="cuda", seed=6)
            space = FAMILY.legal_space(problem, here).accepted
            default = FAMILY.default(problem, here)
            assert isinstance(FAMILY.judge(problem, default, here), Accepted)
            step = len(space) // 12
            rows = range(step // 2, len(space), step)
            for config in [default, *(space.config(row) for row in rows)]:
                verdict = workload.check(config)
                assert verdict.ok, f"{problem} {config}: {verdict.reason}"


def test_split_k_gives_the_same_bits_every_time() -> None:
    import torch

    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    problem = problem_of(("bf16", "int4.g128"), (8, 4096, 8192))
    workload = WeightOnlyWorkload(problem, device="cuda", seed=2)
    run = workload.launchers(replace(NARROW, split_k=8), 1)[0]
    run()
    first = workload.operands.c.clone()
    for _ in range(200):
        workload.operands.c.fill_(float("nan"))
        run()
        assert torch.equal(workload.operands.c, first)


@pytest.mark.parametrize("config", [NARROW, SQUARE], ids=["split", "square"])
def test_launches_inside_a_cuda_graph(config: WeightOnlyConfig) -> None:
    import torch

    from tiles.kernels.accuracy import compare
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    problem = problem_of(("bf16", "int4.g128"), (16, 1024, 2048))
    workload = WeightOnlyWorkload(problem, device="cuda", seed=4)
    run = workload.launchers(config, 1)[0]
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(3):
        workload.operands.c.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        verdict = compare(workload.operands.c, workload.reference(fold=False))
        assert verdict.ok, verdict.reason


@pytest.mark.parametrize("tma", [False, True])
def test_offsets_beyond_two_to_the_31(tma: bool) -> None:
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    if tma and "tma" not in limits().features:
        pytest.skip("no tensor memory access")
    # More than 2^31 elements of C, then of packed weights.
    for shape in ((131200, 16512, 128), (8, 262400, 16512)):
        config = replace(SQUARE if shape[0] > 8 else replace(NARROW, split_k=1), tma=tma)
        problem = problem_of(("bf16", "int8.row"), shape)
        verdict = WeightOnlyWorkload(problem, device="cuda", seed=3).check(config)
        assert verdict.ok, verdict.reason
