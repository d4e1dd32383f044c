"""Decoded products on a real GPU: every code, format and way to decode, tails, graphs, offsets."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from covering import covering
from huge_tensors import sampled

from sim import gpu_names, load_gpu
from tiles.kernels import Accepted
from tiles.kernels.decoded_gemm import DecodedGemmConfig, TritonDecodedGemm
from tiles.problems import Gemm
from tiles.recipes import RECIPES, Recipe

pytestmark = pytest.mark.gpu

FAMILY = TritonDecodedGemm()
LOOP = DecodedGemmConfig(
    block_m=128,
    block_n=128,
    block_k=64,
    group_m=8,
    num_warps=8,
    num_stages=3,
    tma=False,
    persistent=False,
    staged=False,
    native=False,
)
STAGED = replace(LOOP, staged=True)
VARIANTS = {
    "loop": LOOP,
    "loop, 16 rows": replace(LOOP, block_m=16, block_n=64, num_warps=4, num_stages=4),
    "loop, 64 rows, deep": replace(LOOP, block_m=64, block_k=128, num_warps=4, num_stages=2),
    "loop, wide": replace(LOOP, block_n=256),
    "loop, shallow": replace(LOOP, block_m=32, block_n=32, block_k=32, num_warps=4),
    "staged": STAGED,
    "staged, tma": replace(STAGED, tma=True),
    "staged, tma, persistent": replace(STAGED, block_n=256, tma=True, persistent=True),
}
TWO_LEVEL_16 = "e2m1fn.b16x16+e4m3fn+two-level"
NVFP4 = ("nvfp4", TWO_LEVEL_16)
FORMATS = [
    ("e3m4fn.tensor", "e3m4fn.row"),
    ("e4m3fn.tensor", "e3m4fn.row"),
    ("ffp8_e4m3.tensor+pow2", "ffp8_e3m4.tensor+pow2"),
    ("posit8es1", "posit8es1"),
    ("posit8es0", "posit8es2"),
    ("e4m3fn.mx", "e4m3fn.mx"),
    ("e5m2.mx", "e4m3fn.mx"),
    ("e3m2fn.mx", "e3m2fn.mx"),
    ("e2m3fn.mx", "e2m3fn.mx"),
    ("e2m1fn.mx", "e2m1fn.mx"),
    ("mxint8.mx", "mxint8.mx"),
    ("e3m2fn.mx", "e2m1fn.mx"),
    NVFP4,
    ("uint8.row", "uint8.tensor"),
    ("uint4.row", "int4.row"),
    ("bf16", "e2m1fn.mx"),
    ("fp16", "nvfp4"),
    ("e4m3fn.b1x128+e8m0fnu", "e4m3fn.b128x128+e8m0fnu"),
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


def chosen(variant: str) -> DecodedGemmConfig:
    config = VARIANTS[variant]
    if config.tma and "tma" not in limits().features:
        pytest.skip("no tensor memory access")
    return config


#: Whole tiles and words; then tails everywhere, and odd rows of codes, which leave no whole words.
EVEN = (256, 512, 1024)
RAGGED = [(333, 1032, 2096), (1, 517, 1001), (7, 41, 4099)]


def cases() -> list[Any]:
    """Every format by every variant, on whole tiles and on one of the ragged shapes in turn.

    Each with one output, in turn as well: 288 configurations compile.
    """
    found = []
    for row, formats in enumerate(FORMATS):
        for column, (name, config) in enumerate(VARIANTS.items()):
            turn = row + column
            # Descriptors take rows of multiples of 16 bytes.
            ragged = RAGGED[0] if config.tma else RAGGED[turn % len(RAGGED)]
            for shape, even in ((EVEN, True), (ragged, False)):
                out = ("bf16", "fp32")[(turn // 2 + even) % 2]
                label = f"{' by '.join(formats)}, {name}, {'even' if even else 'ragged'}"
                found.append(pytest.param(formats, name, shape, out, id=label))
    return found


@pytest.mark.parametrize(("formats", "variant", "shape", "out"), cases())
def test_every_format_lies_within_its_bounds(
    formats: tuple[str, str], variant: str, shape: tuple[int, int, int], out: str
) -> None:
    from tiles.kernels.decoded_workload import DecodedGemmWorkload

    config = chosen(variant)
    problem = problem_of(formats, shape, out)
    verdict = DecodedGemmWorkload(problem, device="cuda", seed=1).check(config)
    assert verdict.ok, f"{problem} {config}: {verdict.reason}"


@pytest.mark.parametrize("variant", ["loop, 16 rows", "staged"])
@pytest.mark.parametrize("wide", ["posit8es0", "posit8es2"])
@pytest.mark.parametrize(
    "name",
    [
        "e3m4fn", "e4m3fn", "e5m2", "e3m4", "e4m3fnuz", "ffp8_e4m3", "ffp8_e3m4", "ffp8_e5m2",
        "posit8es0", "posit8es1", "posit8es2", "int8", "e3m2fn", "e2m3fn", "e2m1fn", "int4",
    ],
)  # fmt: skip
def test_every_code_decodes_exactly(name: str, wide: str, variant: str) -> None:
    """By an identity matrix (whose posits ask for fp16 or bf16) the numbers themselves come out."""
    import torch

    from tiles.formats import element, pack_codes
    from tiles.formats.torch_encode import decode
    from tiles.kernels.decoded_formats import template_element
    from tiles.kernels.triton import gemm_decoded
    from tiles.kernels.triton.decoded_element import named_element
    from tiles.kernels.triton.decoded_operand import StoredMatrix
    from tiles.kernels.triton.decoded_staging import workspace_bytes

    fmt = element(name)
    k, n = 512, 272
    rows, cols = torch.arange(n)[:, None], torch.arange(k)[None, :]
    codes = ((rows + 37 * cols) % (1 << fmt.bits)).to(torch.uint8)
    values = decode(codes, fmt)
    # Zero times NaN and infinity would spoil their row.
    codes[~values.isfinite()] = 0x40 if name.startswith("posit") else 1
    identity = torch.zeros(k, k, dtype=torch.uint8).fill_diagonal_(0x40)  # a posit's one
    found = template_element(fmt)
    assert found is not None
    packed = codes if fmt.bits == 8 else pack_codes(codes, fmt.bits)
    c = torch.full((k, n), float("nan"), device="cuda")
    config = VARIANTS[variant].to_dict()
    size = workspace_bytes(config, k, n, k)
    gemm_decoded.launch(
        StoredMatrix(codes=identity.cuda(), columns=k, element=named_element(wide)),
        StoredMatrix(codes=packed.cuda(), columns=k, element=found),
        c,
        config=config,
        workspace=torch.empty(size, dtype=torch.uint8, device="cuda") if size else None,
    )
    assert torch.equal(c, decode(codes, fmt).T.cuda())


@pytest.mark.parametrize("variant", ["loop", "staged"])
@pytest.mark.parametrize("formats", ["e4m3fn.mx", "e2m1fn.mx", "nvfp4", "mxint8.mx", "e3m4fn.row"])
def test_zero_blocks_outliers_and_nan_behave_as_documented(formats: str, variant: str) -> None:
    import torch

    from tiles.formats import TensorFormat
    from tiles.formats.torch_codec import quantize_tensor
    from tiles.kernels.decoded_workload import DecodedGemmWorkload

    fmt = TensorFormat.parse(formats)
    problem = problem_of((formats, formats), (70, 90, 333), "fp32")
    workload = DecodedGemmWorkload(problem, device="cuda", seed=1)
    drawn = []
    for rows in (problem.m, problem.n):
        x = torch.randn(rows, problem.k, generator=torch.Generator().manual_seed(rows))
        x[0] = 0
        x[1, :160] = 0
        x[2, 3] = 30000.0
        x[3] *= 1e-3
        x[4, -1] = torch.nan
        x[5, 0] = torch.inf
        drawn.append(quantize_tensor(x.cuda(), fmt))
    workload.__dict__["drawn"] = tuple(drawn)
    verdict = workload.check(VARIANTS[variant])
    assert verdict.ok, verdict.reason
    c = workload.operands[2]
    assert c.isnan().all(dim=1).nonzero().flatten().tolist() == [4, 5]
    assert c.isnan().all(dim=0).nonzero().flatten().tolist() == [4, 5]


SAMPLED = [(name, m) for name in RECIPES for m in (5, 200, 2048)]


@cache
def sample() -> dict[Any, list[DecodedGemmConfig]]:
    """On an H200 99: defaults of 39 problems, and 60 that cover the most pairs of values."""
    here = limits()
    problems = {
        (name, m): problem
        for name, m in SAMPLED
        if FAMILY.refusal(problem := Gemm(m=m, n=2048, k=2048, recipe=RECIPES[name]), here) is None
    }
    found = covering([FAMILY.legal_space(p, here).accepted for p in problems.values()], 60)
    return {
        key: [FAMILY.default(problem, here), *configs]  # type: ignore[list-item]
        for (key, problem), configs in zip(problems.items(), found, strict=True)
    }


@pytest.mark.parametrize(("name", "m"), SAMPLED)
def test_legal_configurations_run(name: str, m: int) -> None:
    """A sample of the space that the legality gate passed compiles, launches and is right."""
    from tiles.kernels.decoded_workload import DecodedGemmWorkload

    problem = Gemm(m=m, n=2048, k=2048, recipe=RECIPES[name])
    if reason := FAMILY.refusal(problem, limits()):
        pytest.skip(reason)
    configs = sample()[name, m]
    assert isinstance(FAMILY.judge(problem, configs[0], limits()), Accepted)
    workload = DecodedGemmWorkload(problem, device="cuda", seed=6)
    for config in configs:
        verdict = workload.check(config)
        assert verdict.ok, f"{name} {problem} {config}: {verdict.reason}"


@pytest.mark.parametrize("variant", ["loop", "loop, 16 rows", "staged, tma, persistent"])
def test_launches_inside_a_cuda_graph(variant: str) -> None:
    import torch

    from tiles.kernels.accuracy import compare
    from tiles.kernels.decoded_workload import DecodedGemmWorkload

    config = chosen(variant)
    problem = problem_of(("e3m2fn.mx", "e2m1fn.mx"), (300, 1024, 2048))
    workload = DecodedGemmWorkload(problem, device="cuda", seed=4)
    run = workload.launchers(config, 1)[0]
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    first = None
    for _ in range(3):
        c = workload.operands[2]
        c.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        verdict = compare(c, workload.reference())
        assert verdict.ok, verdict.reason
        first = c.clone() if first is None else first
        assert torch.equal(c, first)


def drawn_mx(rows: int, columns: int, seed: int) -> Any:
    """Random e4m3fn codes and E8M0 scales about 1, made without floats of the matrix's size.

    Scales lie with their rows together, padded, so that a step along K is as long as the matrix.
    """
    import torch

    from tiles.kernels.triton.decoded_element import named_element
    from tiles.kernels.triton.decoded_operand import StoredMatrix

    generator = torch.Generator(device="cuda").manual_seed(seed)
    drawn = torch.randint(
        0, 128, (rows, columns), generator=generator, dtype=torch.uint8, device="cuda"
    )
    # Up to 1.875 of either sign: neither an outlier nor the code of NaN.
    codes = (drawn & 63) | (drawn & 64) << 1
    grid = (rows, -(-columns // 32))
    scales = torch.empty_strided(grid, (1, rows + 3), dtype=torch.uint8, device="cuda")
    scales.copy_(torch.randint(123, 131, grid, generator=generator, device="cuda"))
    return StoredMatrix(
        codes=codes,
        columns=columns,
        element=named_element("e4m3fn"),
        scales=scales,
        block=(1, 32),
        stored="e8m0fnu",
    )


def values_of(side: Any, rows: list[int]) -> Any:
    """fp64 numbers of some rows of what :func:`drawn_mx` made."""
    import torch

    from tiles.formats import element
    from tiles.formats.torch_encode import decode

    codes = decode(side.codes[rows], element("e4m3fn")).to(torch.float64)
    scales = torch.exp2(side.scales[rows].to(torch.float64) - 127)
    return codes * scales.repeat_interleave(32, dim=1)[:, : side.columns]


@pytest.mark.parametrize("variant", ["loop", "staged", "staged, tma"])
@pytest.mark.parametrize("shape", [(131200, 16512, 128), (128, 131200, 16512)], ids=["C", "B"])
def test_offsets_beyond_two_to_the_31(
    shape: tuple[int, int, int], variant: str, huge: Callable[[float], None]
) -> None:
    """More than 2^31 elements of C, or of codes and decoded operands; a sample is looked at."""
    import torch

    from tiles.kernels.accuracy import compare, gemm_reference
    from tiles.kernels.decoded_workload import DecodedGemmWorkload
    from tiles.kernels.triton import gemm_decoded
    from tiles.kernels.triton.decoded_staging import workspace_bytes

    config = chosen(variant).to_dict()
    huge(16)
    m, n, k = shape
    a, b = drawn_mx(m, k, 3), drawn_mx(n, k, 4)
    c = torch.full((m, n), float("nan"), dtype=torch.bfloat16, device="cuda")
    size = workspace_bytes(config, m, n, k)
    gemm_decoded.launch(
        a,
        b,
        c,
        config=config,
        workspace=torch.full((size,), 0xFF, dtype=torch.uint8, device="cuda") if size else None,
    )
    rows = sampled(m, n) if m > n else list(range(m))
    cols = sampled(n, k) if m < n else list(range(n))
    problem = problem_of(("e4m3fn.mx", "e4m3fn.mx"), shape)
    arithmetic = DecodedGemmWorkload(problem, device="cuda", seed=0).arithmetic
    wanted = gemm_reference(values_of(a, rows), values_of(b, cols), arithmetic)
    verdict = compare(c[rows][:, cols], wanted)
    assert verdict.ok, verdict.reason
    # Nothing was left out anywhere.
    assert all(not part.isnan().any() for part in c.flatten().split(2**28))


@pytest.mark.parametrize(
    "formats",
    [("e4m3fn.mx", "e4m3fn.mx"), ("e5m2.mx", "e2m1fn.mx"), ("e2m1fn.mx", "e2m1fn.mx"), NVFP4],
    ids=lambda f: " by ".join(f),
)
def test_block_scaled_products_lie_within_their_bounds(formats: tuple[str, str]) -> None:
    """Where tensor cores take no block scales, Triton multiplies the same in bf16 (not NVFP4)."""
    from tiles.kernels.decoded_workload import DecodedGemmWorkload

    if formats == NVFP4 and "tcgen05" not in limits().features:
        pytest.skip("Triton compiles NVFP4 for block-scaled tensor cores only")
    for num_warps in (4, 8):
        config = replace(LOOP, block_k=128, num_warps=num_warps, num_stages=2, native=True)
        for shape in ((256, 512, 1024), (333, 1032, 2096), (7, 41, 4099)):
            problem = problem_of(formats, shape)
            verdict = DecodedGemmWorkload(problem, device="cuda", seed=1).check(config)
            assert verdict.ok, f"{problem} {config}: {verdict.reason}"


@pytest.mark.parametrize("shape", [(4096, 4096, 4096), (4096, 2112, 7168), (16, 8192, 8192)])
def test_large_products_of_every_recipe(shape: tuple[int, int, int]) -> None:
    from tiles.kernels.decoded_workload import DecodedGemmWorkload

    m, n, k = shape
    for name, recipe in RECIPES.items():
        problem = Gemm(m=m, n=n, k=k, recipe=recipe)
        if FAMILY.refusal(problem, limits()) is not None:
            continue
        config = FAMILY.default(problem, limits())
        verdict = DecodedGemmWorkload(problem, device="cuda", seed=2).check(config)
        assert verdict.ok, f"{name} {problem}: {verdict.reason}"
