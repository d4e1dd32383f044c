"""The one-pass tile kernels on a GPU, bit for bit against the codec on the CPU.

Formats are multiplied by element types, shapes and configurations taken in turn: some 550 kernels
compile, where every configuration that once was would be thousands.
"""

import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from covering import covering

from sim import gpu_names, load_gpu
from tiles.formats import quantize
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels import ConfigTable, TileConfig, Workload, kernel
from tiles.kernels.dequantize_workload import DequantizeWorkload
from tiles.kernels.quantize_tiles_workload import (
    Outputs,
    QuantizeTilesWorkload,
    quantized_outputs,
)
from tiles.problems import Dequantize, Problem, Quantize, parse_problem

pytestmark = pytest.mark.gpu

RAGGED = ((1, 1), (33, 129), (130, 1040))
WHOLE = ((256, 2048), (128, 1024))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TARGETS = (
    "int8.row int8.b1x128 int8.b32x32 int8.b64x64 int8.b128x128 int8.b32x32+fp16 int8.b128x1 "
    "int8.b4x16+bf16+pow2 e4m3fn.row e4m3fn.b1x128 e4m3fn.b128x128 e5m2.b1x32 e2m3fn.b4x32 "
    "e4m3fn.mx e4m3fn.mx+ceil e5m2.mx+rceil e3m2fn.mx e3m2fn.mx+even e2m3fn.mx+rceil e2m1fn.mx "
    "e2m1fn.mx+even mxint8.mx mxint8.mx+rceil nvfp4 e2m1fn.b16x16+e4m3fn+two-level int4.g128 "
    "int8.b32x32+sr int8.b1x128+sr e4m3fn.b1x128+sr e5m2.mx+sr e3m2fn.mx+sr e2m1fn.mx+sr nvfp4+sr"
).split()
ONE_SCALE = ("int8.tensor", "e4m3fn.tensor", "e5m2.tensor+sr")
TRANSPOSED = (
    "int8.b32x32 int8.b32x32+sr int8.b128x128 e4m3fn.b1x128 e4m3fn.mx e2m1fn.mx e3m2fn.mx nvfp4 "
    "e2m1fn.b16x16+e4m3fn+two-level int8.b1x32+sr"
).split()


def limits():  # type: ignore[no-untyped-def]
    name = torch.cuda.get_device_name()
    return next(gpu for gpu in map(load_gpu, gpu_names()) if gpu.matches(name)).limits


def nasty(rows: int, cols: int, source: str) -> torch.Tensor:
    """Zero blocks, subnormals, ties, an outlier, NaN, infinities and -0 among numbers."""
    rng = np.random.default_rng(rows * 7919 + cols)
    x = rng.standard_normal((rows, cols)) * 2.0 ** rng.integers(-12, 12, (rows, cols))
    if rows * cols > 1000:
        x[: rows // 4, : cols // 3] = 0
        x[rows // 2 :, cols // 2 :] *= {"fp32": 1e-42, "bf16": 1e-37, "fp16": 1e-6}[source]
        x[rows // 3, : cols // 2] = np.arange(cols // 2) % 255 - 127 + 0.5
        x[rows // 2, : cols // 8] = 127 * 2.0**-3
        x[rows // 4, cols - 1], x[rows - 1, 1], x[0, cols // 2] = np.nan, -np.inf, -0.0
        x[rows // 5, cols // 4] = 3e4
        if source != "fp16":
            x[rows // 5, cols // 2 :] *= 1e33
    return torch.from_numpy(x.astype(np.float32)).to(DTYPES[source])


@cache
def sample(family: str, text: str) -> ConfigTable:
    """The default and, of the legal space, what covers the most pairs of values, best first."""
    problem = parse_problem(text)
    (found,) = covering([kernel(family).legal_space(problem, limits()).accepted])
    return ConfigTable.of([kernel(family).default(problem, limits()), *found])


def configs(problem: Problem, family: str, count: int, turn: int) -> list[TileConfig]:
    """``count`` of the sample, beginning where the turn says."""
    every = list(sample(family, str(problem)))
    return [every[(turn + place) % len(every)] for place in range(min(count, len(every)))]


def turn_of(*facts: object) -> int:
    """A number by which tests take turns in shapes and configurations, the same in any process."""
    return zlib.crc32(repr(facts).encode())


def on_gpu(outputs: Outputs) -> Outputs:
    named = dict.fromkeys(Outputs.__slots__)
    return Outputs(**(named | {name: t.cuda() for name, t in outputs.named().items()}))


def check_quantize(text: str, x: torch.Tensor, count: int = 1) -> None:
    problem = parse_problem(text)
    assert isinstance(problem, Quantize)
    if kernel("triton_quantize_tiles").refusal(problem, limits()) is not None:
        return
    workload = QuantizeTilesWorkload(problem, device="cuda", seed=2**63 + 5)
    workload._drawn = x.cuda()
    workload._reference = on_gpu(quantized_outputs(x, problem, 2**63 + 5))
    for config in configs(problem, "triton_quantize_tiles", count, turn_of(text)):
        accuracy = workload.check(config)
        assert accuracy.ok, f"{problem} {config}: {accuracy.reason}"


def shapes(*facts: object) -> tuple[tuple[int, int], ...]:
    """A ragged shape and one of whole tiles, in turn: tests multiply formats by element types."""
    turn = turn_of(*facts)
    return RAGGED[turn % len(RAGGED)], WHOLE[turn % len(WHOLE)]


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_quantised_as_the_codec_does(target: str, source: str) -> None:
    for rows, cols in shapes(target, source):
        check_quantize(f"quantize:{rows}x{cols}:{target}:{source}", nasty(rows, cols, source))


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", ONE_SCALE)
def test_one_scale_for_the_tensor(target: str, source: str) -> None:
    for rows, cols in shapes(target, source):
        # A NaN would spoil everything: finite numbers.
        x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(rows))
        for option in ("", ":transposed"):
            text = f"quantize:{rows}x{cols}:{target}:{source}{option}"
            check_quantize(text, x.to(DTYPES[source]), 2)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", TRANSPOSED)
def test_the_transposed_copy_is_that_of_the_transposed_matrix(target: str, source: str) -> None:
    for rows, cols in shapes(target, source):
        text = f"quantize:{rows}x{cols}:{target}:{source}:transposed"
        check_quantize(text, nasty(rows, cols, source))


@pytest.mark.parametrize("option", ["swizzled", "transposed:swizzled"])
@pytest.mark.parametrize("target", ["e4m3fn.mx", "e2m1fn.mx+rceil", "nvfp4"])
def test_swizzled_scales(target: str, option: str) -> None:
    for rows, cols in (*RAGGED, *WHOLE, (256, 256)):
        text = f"quantize:{rows}x{cols}:{target}:bf16:{option}"
        check_quantize(text, nasty(rows, cols, "bf16"))


@pytest.mark.parametrize("out", DTYPES)
@pytest.mark.parametrize("source", [*TARGETS[:26], "int8.tensor"])
def test_dequantised_as_the_codec_does(source: str, out: str) -> None:
    for rows, cols in shapes(source, out):
        problem = parse_problem(f"dequantize:{rows}x{cols}:{source}:{out}")
        assert isinstance(problem, Dequantize)
        workload = DequantizeWorkload(problem, device="cuda", seed=3)
        x = nasty(rows, cols, "bf16")
        workload._quantized = quantize_tensor(x.cuda(), problem.source)
        workload._reference = quantize_tensor(x, problem.source).dequantize().to(DTYPES[out]).cuda()
        for config in configs(problem, "triton_dequantize", 1, turn_of(source, out)):
            accuracy = workload.check(config)
            assert accuracy.ok, f"{problem} {config}: {accuracy.reason}"


@pytest.mark.parametrize("element", ["int8", "e4m3fn", "e5m2"])
def test_transposed_codes(element: str) -> None:
    for rows, cols in (*RAGGED, *WHOLE, (4096, 1000), (77, 8192)):
        problem = parse_problem(f"transpose:{rows}x{cols}:{element}")
        workload = kernel("triton_transpose").workload(problem, device="cuda", seed=1)
        for config in configs(problem, "triton_transpose", 3, turn_of(element, rows)):
            accuracy = workload.check(config)
            assert accuracy.ok, f"{problem} {config}: {accuracy.reason}"


def test_every_8_bit_ratio_of_bf16_rounds_as_numpy_does() -> None:
    """All positive bf16 numbers of a binade against all absmax significands of another."""
    significands = (torch.arange(128, 256).float() / 128).to(torch.bfloat16)
    rows = []
    for amax in significands:
        row = torch.cat([significands * 2.0**-k for k in range(10)])[:1279]
        rows.append(torch.cat([amax[None] * 2, row, -row]))
    x = torch.stack(rows).to(torch.bfloat16)
    for target in ("int8.row", "e4m3fn.row", "e5m2.row"):
        check_quantize(f"quantize:{x.shape[0]}x{x.shape[1]}:{target}:bf16", x, 4)


GRAPHS = (
    ("triton_quantize_tiles", "quantize:512x4096:e4m3fn.b1x128:bf16"),
    ("triton_quantize_tiles", "quantize:512x4096:nvfp4:bf16:transposed:swizzled"),
    ("triton_quantize_tiles", "quantize:500x4000:e2m1fn.mx+sr:bf16:swizzled"),
    ("triton_dequantize", "dequantize:512x4096:e3m2fn.mx:bf16"),
    ("triton_transpose", "transpose:512x4096:int8"),
)


def written(workload: Workload) -> list[torch.Tensor]:
    copy = workload.operands  # type: ignore[attr-defined]
    return list(copy.outputs.named().values()) if hasattr(copy, "outputs") else [copy.out]


@pytest.mark.parametrize(("family", "text"), GRAPHS, ids=[text for _, text in GRAPHS])
def test_replays_from_a_graph_alike(family: str, text: str) -> None:
    problem = parse_problem(text)
    workload = kernel(family).workload(problem, device="cuda", seed=1)
    config = kernel(family).default(problem, limits())
    assert workload.check(config).ok
    launch = workload.launchers(config, 1)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    first = [tensor.clone() for tensor in written(workload)]
    for _ in range(3):
        for tensor in written(workload):
            tensor.zero_()
        graph.replay()
        torch.cuda.synchronize()
        for before, after in zip(first, written(workload), strict=True):
            # Scales of 1xB blocks lie with their rows contiguous: no bytes can be seen in them.
            first_bytes, later_bytes = (t.contiguous().view(torch.uint8) for t in (before, after))
            assert torch.equal(first_bytes, later_bytes)


def test_offsets_beyond_two_to_the_31(huge: Callable[[float], None]) -> None:
    """The last rows of a matrix of more than 2^31 elements are quantised where they lie."""
    from tiles.kernels.triton import quantize_tiles

    huge(12)
    rows, cols = 2**19 + 3, 4096
    x = torch.zeros(rows, cols, dtype=torch.bfloat16, device="cuda")
    x[-3:] = torch.randn(3, cols, device="cuda").to(torch.bfloat16)
    codes = torch.full((rows, cols), 0x55, dtype=torch.uint8, device="cuda")
    scales = torch.full((rows, cols // 32), 0x55, dtype=torch.uint8, device="cuda")
    problem = parse_problem("quantize:3x4096:e4m3fn.mx:bf16")
    assert isinstance(problem, Quantize)
    config = kernel("triton_quantize_tiles").default(problem, limits())
    quantize_tiles.launch(
        x,
        codes,
        scales,
        element="e4m3fn",
        block=(1, 32),
        stored="e8m0fnu",
        rule="floor",
        config=config.to_dict(),
    )
    wanted = quantize(x[-3:].float().cpu().numpy(), problem.target)
    np.testing.assert_array_equal(codes[-3:].cpu().numpy(), wanted.codes)
    assert not codes[:-3].any()
    assert not scales[:-3].any()
