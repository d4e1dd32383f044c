"""Weight-only products on a real GPU: every code, format, tails, split K, graphs, the space."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from covering import covering
from huge_tensors import sampled

from sim import gpu_names, load_gpu
from tiles.kernels import Accepted, ConfigTable
from tiles.kernels.weight_only import TritonWeightOnly, WeightOnlyConfig
from tiles.kernels.weight_only_rules import waste_rules
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


def legal_folds(problem: Gemm, config: WeightOnlyConfig) -> list[WeightOnlyConfig]:
    """The configuration with every treatment of scales that the GPU's rules allow.

    Rules against waste aside: tests have small shapes.
    """
    here = limits()
    both = ConfigTable.of([replace(config, fold=fold) for fold in (False, True)])
    wasteful = {rule.name for rule in waste_rules(problem, both, here)}
    rules = [rule for rule in FAMILY.rules(problem, both, here) if rule.name not in wasteful]
    return [
        replace(config, fold=fold)
        for row, fold in enumerate((False, True))
        if not any(rule.broken[row] for rule in rules)
    ]


#: Whole tiles and panels, as real layers have them; then tails, in K as well.
EVEN = (16, 1024, 2048)
RAGGED = [(13, 1032, 2096), (333, 1032, 1304), (1, 517, 1001), (7, 40, 4100)]


def cases() -> list[Any]:
    """Every format by every variant, on whole tiles and on one of the ragged shapes in turn.

    Each with one output and one treatment of scales, in turn as well: 288 configurations compile.
    """
    found = []
    for row, formats in enumerate(FORMATS):
        for column, (name, config) in enumerate(VARIANTS.items()):
            turn = row + column
            # What descriptors allow: rows of multiples of 16 bytes.
            ragged = RAGGED[turn % (2 if config.tma else len(RAGGED))]
            for shape, even in ((EVEN, True), (ragged, False)):
                out = ("bf16", "fp32")[(turn // 2 + even) % 2]
                label = f"{' by '.join(formats)}, {name}, {'even' if even else 'ragged'}"
                found.append(pytest.param(formats, config, shape, out, turn + even, id=label))
    return found


@pytest.mark.parametrize(("formats", "config", "shape", "out", "turn"), cases())
def test_every_format_lies_within_its_bounds(
    formats: tuple[str, str],
    config: WeightOnlyConfig,
    shape: tuple[int, int, int],
    out: str,
    turn: int,
) -> None:
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    problem = problem_of(formats, shape, out)
    folds = legal_folds(problem, config)
    if not folds:
        verdict = FAMILY.judge(problem, config, limits())
        pytest.skip(getattr(verdict, "reason", "no treatment of scales is legal"))
    chosen = folds[turn % len(folds)]
    verdict = WeightOnlyWorkload(problem, device="cuda", seed=1).check(chosen)
    assert verdict.ok, f"{problem} {chosen}: {verdict.reason}"


@pytest.mark.parametrize(
    "variant", ["narrow", "tall", "wgmma, 16 columns", "square", "square, tma"]
)
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
    from tiles.kernels.triton.split_workspace import workspace_words
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


SAMPLED = [
    (formats, m)
    for formats in (("bf16", "int4.g128"), ("fp16", "int8.row"), ("bf16", "nvfp4"))
    for m in (4, 48, 2048)
]


@cache
def sample() -> dict[Any, list[WeightOnlyConfig]]:
    """On an H200 66: defaults, and 57 with every pair of values that the nine spaces hold."""
    here = limits()
    problems = [problem_of(formats, (m, 2048, 4096)) for formats, m in SAMPLED]
    found = covering([FAMILY.legal_space(problem, here).accepted for problem in problems])
    return {
        key: [FAMILY.default(problem, here), *configs]  # type: ignore[list-item]
        for key, problem, configs in zip(SAMPLED, problems, found, strict=True)
    }


@pytest.mark.parametrize(("formats", "m"), SAMPLED)
def test_legal_configurations_run(formats: tuple[str, str], m: int) -> None:
    """A sample of the space that the legality gate passed compiles, launches and is right."""
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    problem = problem_of(formats, (m, 2048, 4096))
    workload = WeightOnlyWorkload(problem, device="cuda", seed=6)
    configs = sample()[formats, m]
    assert isinstance(FAMILY.judge(problem, configs[0], limits()), Accepted)
    for config in configs:
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


def test_launches_of_different_shapes_share_a_workspace() -> None:
    """Back to back on one stream: nobody's partial sums are another's counters."""
    import torch

    from tiles.kernels.triton import gemm_weight_only
    from tiles.kernels.triton.split_workspace import workspace_words
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    made = []
    # 1 tile, 64 and 130 of them: other places for partial sums each time.
    for (m, n, k), split in (((8, 64, 4096), 8), ((8, 4096, 8192), 4), ((16, 4128, 2048), 16)):
        workload = WeightOnlyWorkload(
            problem_of(("bf16", "int4.g128"), (m, n, k)), device="cuda", seed=split
        )
        config = replace(NARROW, split_k=split)
        verdict = workload.check(config)
        assert verdict.ok, verdict.reason
        made.append((workload.operands, config.to_dict(), workload.operands.c.clone()))
    words = max(workspace_words(fields, *o.c.shape) for o, fields, _ in made)
    workspace = torch.zeros(words, dtype=torch.int32, device="cuda")
    for _ in range(20):
        for operands, fields, _ in (*made, *reversed(made)):
            operands.c.fill_(float("nan"))
            gemm_weight_only.launch(
                operands.x, operands.weight, operands.c, config=fields, workspace=workspace
            )
        for operands, fields, wanted in made:
            assert torch.equal(operands.c, wanted), fields


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
@pytest.mark.parametrize("shape", [(131200, 16512, 128), (8, 262400, 16512)], ids=["C", "W"])
def test_offsets_beyond_two_to_the_31(
    shape: tuple[int, int, int], tma: bool, huge: Callable[[float], None]
) -> None:
    """More than 2^31 elements of the output, or of the packed weights; a sample is looked at."""
    import torch

    from tiles.kernels.accuracy import compare, gemm_reference
    from tiles.kernels.triton import gemm_weight_only
    from tiles.kernels.triton.weight_layout import pack
    from tiles.kernels.weight_only_workload import WeightOnlyWorkload

    if tma and "tma" not in limits().features:
        pytest.skip("no tensor memory access")
    m, n, k = shape
    # Codes, their copies while they are packed, and the output.
    huge(24)
    generator = torch.Generator(device="cuda").manual_seed(3)
    x = torch.randn(m, k, generator=generator, device="cuda").to(torch.bfloat16)
    codes = torch.randint(-127, 128, (n, k), generator=generator, dtype=torch.int8, device="cuda")
    scales = torch.rand(n, 1, generator=generator, device="cuda") + 0.5
    packed = pack(codes.view(torch.uint8), scales, element="int8", columns=k)
    c = torch.full((m, n), float("nan"), dtype=torch.bfloat16, device="cuda")
    config = replace(SQUARE if m > 8 else replace(NARROW, split_k=1), tma=tma)
    gemm_weight_only.launch(x, packed, c, config=config.to_dict())
    rows = sampled(m, n) if m > 8 else list(range(m))
    cols = sampled(n, k) if m <= 8 else list(range(n))
    problem = problem_of(("bf16", "int8.row"), shape)
    arithmetic = WeightOnlyWorkload(problem, device="cuda", seed=0).arithmetic(fold=False)
    wanted = gemm_reference(
        x[rows].to(torch.float64), codes[cols].to(torch.float64) * scales[cols], arithmetic
    )
    verdict = compare(c[rows][:, cols], wanted)
    assert verdict.ok, verdict.reason
    # Nothing was left out anywhere.
    assert all(not part.isnan().any() for part in c.flatten().split(2**28))
