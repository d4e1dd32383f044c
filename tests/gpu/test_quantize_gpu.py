"""Both quantisation kernels on a GPU, bit for bit against the NumPy codec."""

import numpy as np
import pytest
import torch

from sim import load_gpu
from tiles.formats import TensorFormat, quantize
from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels import Backend, kernel
from tiles.kernels.cuda_quantize import CudaQuantizeConfig
from tiles.kernels.cuda_quantize_workload import CudaQuantizeWorkload
from tiles.kernels.quantize import TritonQuantizeConfig
from tiles.kernels.quantize_torch import quantize_torch
from tiles.kernels.quantize_workload import QuantizeWorkload
from tiles.problems import Quantize, parse_problem

pytestmark = pytest.mark.gpu

SHAPES = ((1, 1), (1, 128), (33, 129), (130, 1040), (512, 4096), (7, 40000))
SOURCES = ("bf16", "fp16", "fp32")
TARGETS = ("int8", "e4m3fn", "e5m2")


def triton_configs(scaling: str) -> list[TritonQuantizeConfig]:
    """Whole blocks, one block and steps through a block, hardware and integer casts."""
    tiles = {
        "tensor": ((1, 4096), (8, 512)),
        "row": ((1, 8192), (4, 1024), (2, 256)),
        "b1x128": ((16, 128), (4, 1024), (1, 64)),
        "b128x128": ((128, 128), (32, 128)),
        "b32x32": ((32, 128), (64, 64), (16, 32)),
        "b3x5": ((4, 8), (2, 4)),
        "b48x80": ((64, 128), (16, 64)),
    }[scaling]
    return [
        TritonQuantizeConfig(
            block_rows=rows,
            block_cols=cols,
            num_warps=4 if rows * cols < 16384 else 8,
            num_stages=1 + 2 * (index == len(tiles) - 1 and scaling != "tensor"),
            software_cast=bool(index % 2),
        )
        for index, (rows, cols) in enumerate(tiles)
    ]


def cuda_configs(scaling: str) -> list[CudaQuantizeConfig]:
    """Groups within a warp, a warp, several warps; in registers and read twice; vectors and not."""
    choices = {
        "row": ((256, 256, 8, 1), (256, 32, 8, 1), (512, 128, 4, 1), (256, 1, 8, 1)),
        "b1x128": ((256, 16, 8, 2), (256, 8, 16, 1), (128, 32, 4, 4), (64, 1, 4, 1)),
        "b128x128": ((256, 256, 8, 1), (512, 512, 16, 1), (128, 128, 4, 1)),
        "b32x32": ((256, 32, 8, 2), (256, 64, 16, 1), (128, 16, 8, 1)),
        "b3x5": ((128, 16, 1, 2), (128, 4, 1, 1)),
        "b48x80": ((256, 64, 8, 1), (256, 256, 16, 1)),
    }[scaling]
    return [
        CudaQuantizeConfig(threads=threads, lanes=lanes, vector=vector, unroll=unroll)
        for threads, lanes, vector, unroll in choices
    ]


def nasty(rows: int, cols: int, source: str) -> torch.Tensor:
    """Zero blocks, subnormals, exact ties, NaN, infinities, -0 and huge values among numbers."""
    rng = np.random.default_rng(rows * 7919 + cols)
    x = rng.standard_normal((rows, cols)) * 2.0 ** rng.integers(-12, 12, (rows, cols))
    if rows * cols > 1000:
        x[: rows // 4, : cols // 3] = 0
        x[rows // 2 :, cols // 2 :] *= {"fp32": 1e-42, "bf16": 1e-37, "fp16": 1e-6}[source]
        x[rows // 3, : cols // 2] = np.arange(cols // 2) % 255 - 127 + 0.5
        x[rows // 2, : cols // 8] = 127 * 2.0**-3
        x[rows // 4, cols - 1], x[rows - 1, 1], x[0, cols // 2] = np.nan, -np.inf, -0.0
        if source != "fp16":
            x[rows // 5, cols // 2 :] *= 1e33
    return torch.from_numpy(x.astype(np.float32)).to(CODE_DTYPES[source])


def wanted(x: torch.Tensor, fmt: TensorFormat) -> tuple[np.ndarray, np.ndarray]:
    quantized = quantize(x.float().cpu().numpy(), fmt)
    return quantized.codes, quantized.scales


def run_triton(x, codes, scales, fmt, config):  # type: ignore[no-untyped-def]
    from tiles.kernels.triton import quantize_blocks

    block = (fmt.scaling.rows or 0, fmt.scaling.cols or 0)
    quantize_blocks.launch(x, codes, scales, block=block, config=config.to_dict())


def run_cuda(x, codes, scales, fmt, config, source):  # type: ignore[no-untyped-def]
    cupy = pytest.importorskip("cupy")
    from tiles.kernels.cuda import quantize_blocks

    torch.cuda.synchronize()
    quantize_blocks.launch(
        cupy.from_dlpack(x.view(torch.uint16) if source == "bf16" else x),
        cupy.from_dlpack(codes if codes.dtype == torch.int8 else codes.view(torch.uint8)),
        cupy.from_dlpack(scales),
        source=source,
        target=fmt.element.name,
        block=(fmt.scaling.rows, fmt.scaling.cols or 0),
        config=config.to_dict(),
    )
    torch.cuda.synchronize()


def compare(backend: str, source: str, target: str, scaling: str) -> None:
    fmt = TensorFormat.parse(f"{target}.{scaling}")
    assert fmt.scaling is not None
    configs = triton_configs(scaling) if backend == "triton" else cuda_configs(scaling)
    for shape in SHAPES:
        x = nasty(*shape, source).cuda()
        wanted_codes, wanted_scales = wanted(x, fmt)
        for config in configs:
            codes = torch.full(shape, 0x55, dtype=torch.uint8, device="cuda")
            codes = codes.view(CODE_DTYPES[target])
            scales = empty_scales(*shape, fmt.scaling, "cuda").fill_(-1)
            if backend == "triton":
                run_triton(x, codes, scales, fmt, config)
            else:
                run_cuda(x, codes, scales, fmt, config, source)
            what = f"{shape} {config}"
            np.testing.assert_array_equal(scales.cpu().numpy(), wanted_scales, err_msg=what)
            got = codes.view(torch.uint8).cpu().numpy()
            np.testing.assert_array_equal(got, wanted_codes, err_msg=what)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "scaling", ["tensor", "row", "b1x128", "b128x128", "b32x32", "b3x5", "b48x80"]
)
def test_triton_equals_the_codec_bit_for_bit(scaling: str, source: str, target: str) -> None:
    compare("triton", source, target, scaling)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("scaling", ["row", "b1x128", "b128x128", "b32x32", "b3x5", "b48x80"])
def test_cuda_equals_the_codec_bit_for_bit(scaling: str, source: str, target: str) -> None:
    compare("cuda", source, target, scaling)


@pytest.mark.parametrize("target", TARGETS)
def test_torch_twin_on_the_gpu_equals_the_codec(target: str) -> None:
    for scaling in ("tensor", "row", "b1x128", "b32x32"):
        fmt = TensorFormat.parse(f"{target}.{scaling}")
        x = nasty(130, 1040, "fp32").cuda()
        codes, scales = quantize_torch(x, fmt)
        wanted_codes, wanted_scales = wanted(x, fmt)
        assert scales is not None
        np.testing.assert_array_equal(scales.cpu().numpy(), wanted_scales)
        np.testing.assert_array_equal(codes.view(torch.uint8).cpu().numpy(), wanted_codes)


def turned_configs(extent: int, source: str) -> list[CudaQuantizeConfig]:
    """Half warps, warps and several warps a block, 4 to 16 elements at once, two blocks."""
    vectors = (4, 8) if source == "fp32" else (8, 16)
    found = [
        CudaQuantizeConfig(threads=max(threads, lanes), lanes=lanes, vector=vector, unroll=unroll)
        for vector in vectors
        for items in (4, 8)
        for threads, unroll in ((128, 1), (256, 2))
        if items * vector * (4 if source == "fp32" else 2) <= 256
        and 1 <= (lanes := extent * extent // vector // items) <= 1024
    ]
    return [one for one in found if one.threads // one.lanes * one.unroll * extent**2 <= 2**15]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("text", "transposed"),
    [
        *((f"int8.b{n}x{n}{more}", True) for n in (16, 32, 64, 128) for more in ("", "+sr")),
        *((f"e4m3fn.b{n}x{n}", True) for n in (32, 128)),
        ("e5m2.b64x64", True),
        *((f"int8.{name}+sr", False) for name in ("b32x32", "b128x128", "b1x128", "b3x5", "row")),
    ],
)
def test_cuda_copies_and_random_bits_equal_the_codec(
    text: str, transposed: bool, source: str
) -> None:
    """Through the workload, whose reference is the codec, on numbers that are nasty."""
    pytest.importorskip("cupy")
    fmt = TensorFormat.parse(text)
    scaling = fmt.scaling
    assert scaling is not None
    if transposed:
        configs = turned_configs(scaling.rows or 0, source)
    else:
        configs = cuda_configs(text.removesuffix("+sr").partition(".")[2])
    shapes = ((1, 1), (33, 129), (130, 1040), (144, 272), (512, 4096))
    for turn, shape in enumerate(shapes):
        problem = Quantize(
            rows=shape[0], cols=shape[1], source=source, target=fmt, transposed=transposed
        )
        workload = CudaQuantizeWorkload(problem, device="cuda", seed=2**63 + shape[1])
        workload.__dict__["_drawn"] = nasty(*shape, source).cuda()
        # Two in turn a shape: compiling is what takes long.
        for place in range(min(2, len(configs))):
            config = configs[(2 * turn + place) % len(configs)]
            accuracy = workload.check(config)
            assert accuracy.ok, f"{shape} {config}: {accuracy.reason}"


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        *((Backend.TRITON, f"e4m3fn.{name}:bf16") for name in ("tensor", "row", "b1x128")),
        *((Backend.CUPY, f"e4m3fn.{name}:bf16") for name in ("row", "b1x128")),
        (Backend.CUPY, "int8.b32x32+sr:bf16:transposed"),
    ],
)
def test_workload_checks_itself_and_replays_from_a_graph(backend: Backend, text: str) -> None:
    if backend is Backend.CUPY:
        pytest.importorskip("cupy")
    problem = parse_problem(f"quantize:512x4096:{text}")
    family = kernel("triton_quantize" if backend is Backend.TRITON else "cuda_quantize")
    workload = family.workload(problem, device="cuda", seed=1)
    config = family.default(problem, load_gpu("h200").limits)
    workload.compile(config)
    accuracy = workload.check(config)
    assert accuracy.ok, accuracy.reason

    launch = workload.launchers(config, 1)[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    if isinstance(workload, CudaQuantizeWorkload):
        written = list(workload.operands.outputs.named().values())
    else:
        assert isinstance(workload, QuantizeWorkload)
        written = [workload.operands.codes.view(torch.uint8), workload.operands.scales]
    expected = [tensor.clone() for tensor in written]
    for tensor in written:
        tensor.fill_(0x55)
    graph.replay()
    torch.cuda.synchronize()
    for tensor, wanted_tensor in zip(written, expected, strict=True):
        assert torch.equal(tensor, wanted_tensor)


def test_offsets_beyond_two_to_the_31() -> None:
    """The last rows of a matrix of more than 2^31 elements are quantised where they lie."""
    rows, cols = 2**19 + 3, 4096
    x = torch.zeros(rows, cols, dtype=torch.bfloat16, device="cuda")
    x[-3:] = torch.randn(3, cols, device="cuda").to(torch.bfloat16)
    fmt = TensorFormat.parse("int8.b1x128")
    assert fmt.scaling is not None
    wanted_codes, wanted_scales = wanted(x[-3:], fmt)
    for backend in ("triton", "cuda"):
        codes = torch.full((rows, cols), 0x55, dtype=torch.int8, device="cuda")
        scales = empty_scales(rows, cols, fmt.scaling, "cuda")
        if backend == "triton":
            run_triton(x, codes, scales, fmt, triton_configs("b1x128")[0])
        else:
            run_cuda(x, codes, scales, fmt, cuda_configs("b1x128")[0], "bf16")
        np.testing.assert_array_equal(codes[-3:].cpu().numpy().view(np.uint8), wanted_codes)
        np.testing.assert_array_equal(scales[-3:].cpu().numpy(), wanted_scales)
        assert not codes[:-3].any()


@pytest.mark.parametrize("shape", [(1, 1), (33, 129), (130, 1040), (144, 272), (1024, 4096)])
def test_cuda_transposes(shape: tuple[int, int]) -> None:
    pytest.importorskip("cupy")
    family, limits = kernel("cuda_transpose"), load_gpu("h200").limits
    problem = parse_problem(f"transpose:{shape[0]}x{shape[1]}:int8")
    workload = family.workload(problem, device="cuda", seed=3)
    legal = family.legal_space(problem, limits).accepted
    for config in list(legal)[:: max(1, len(legal) // 10)]:
        accuracy = workload.check(config)
        assert accuracy.ok, f"{config}: {accuracy.reason}"
