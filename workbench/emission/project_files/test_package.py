"""The package's own tests: digests, the choice of configurations, and answers on small shapes.

They need a GPU, or ``TRITON_INTERPRET=1`` in the environment; the digests need neither.
"""

import hashlib
import importlib
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent
NAME = next(path.name for path in (PROJECT / "src").iterdir() if (path / "EVIDENCE.json").exists())
MODULE = PROJECT / "src" / NAME
EVIDENCE = json.loads((PROJECT / "EVIDENCE.json").read_text(encoding="utf-8"))
CONFIGS = [
    json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((MODULE / "configs").glob("*.json"))
]
#: Rounding to nearest errs by half a last place: relative to x of a normal code, absolute in units
#: of the scale of an integer or a subnormal one.  x / scale is itself rounded, at most 127 to fp32.
HALF_ULP = {
    "int8": (0.0, 0.5 + 2.0**-17),
    "e4m3fn": (2.0**-4 + 2.0**-23, 2.0**-10),
    "e5m2": (2.0**-3 + 2.0**-23, 2.0**-17),
}


def _layouts(kernel: str) -> list[Any]:
    found = {
        tuple(c["formats"]): (*c["formats"], c["layout"]) for c in CONFIGS if c["kernel"] == kernel
    }
    return [found[key] for key in sorted(found)]


def _module(name: str = "") -> Any:
    """The installed package or a module of it, once it is known to be this project's."""
    package = importlib.import_module(NAME)
    installed = Path(str(package.__file__)).with_name("EVIDENCE.json")
    assert installed.read_bytes() == (PROJECT / "EVIDENCE.json").read_bytes(), (
        f"{installed.parent} is not this project's: pip install --force-reinstall dist/*.whl"
    )
    return importlib.import_module(f"{NAME}.{name}") if name else package


def _device() -> str:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs a GPU, or TRITON_INTERPRET=1")
    return "cpu"


def _spread(scales: Any, block: Any, rows: int, cols: int) -> Any:
    """One fp64 scale an element."""
    wide = scales.double()
    wide = wide.repeat_interleave(block[0] or rows, 0)[:rows]
    return wide.repeat_interleave(block[1] or cols, 1)[:, :cols]


def _operand(torch: Any, rows: int, cols: int, element: str, block: Any, device: str) -> Any:
    """Random codes and scales, and the fp64 values that they stand for."""
    dtypes = _module("_torch_device").DTYPES
    plain = torch.randn(rows, cols, device=device)
    if element == "int8":
        codes = (plain * 40).round().clamp(-127, 127).to(dtypes[element])
    else:
        codes = plain.to(dtypes[element])
    if block is None:
        return codes, None, codes.double()
    grid = (-(-rows // block[0]) if block[0] else 1, -(-cols // block[1]) if block[1] else 1)
    scales = torch.rand(grid, device=device) + 0.5
    return codes, scales, codes.double() * _spread(scales, block, rows, cols)


def test_files_are_those_of_the_evidence() -> None:
    for name, expected in EVIDENCE["files"].items():
        assert hashlib.sha256((PROJECT / name).read_bytes()).hexdigest() == expected, name


@pytest.mark.parametrize("m", [1, 7, 16, 100, 1 << 20])
def test_the_nearest_tuned_extent_is_taken(m: int) -> None:
    lookup = _module("_lookup")
    for file in lookup.FILES:
        keys = [key for key, _ in file.entries]
        points = [key if isinstance(key, tuple) else (key,) for key in keys]
        distance = [math.prod(max(m, n) / min(m, n) for n in point) for point in points]
        asked = (m,) * len(points[0]) if isinstance(keys[0], tuple) else m
        assert lookup.nearest(asked, keys) == keys[distance.index(min(distance))]


@pytest.mark.parametrize(("recipe", "out", "layout"), _layouts("triton_gemm"))
def test_gemm_is_close_to_the_product_in_float64(recipe: str, out: str, layout: Any) -> None:
    device = _device()
    torch = importlib.import_module("torch")
    package = _module()
    dtype = _module("_torch_device").DTYPES[out]
    torch.manual_seed(0)
    m, n, k = 33, 65, 160
    a, a_scale, a_value = _operand(torch, m, k, layout["a_element"], layout["a_block"], device)
    b, b_scale, b_value = _operand(torch, n, k, layout["b_element"], layout["b_block"], device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        c = package.gemm(a, b, a_scale, b_scale, recipe=recipe, out_dtype=dtype)
    expected = a_value @ b_value.T
    assert (c.double() - expected).norm() <= 0.01 * expected.norm()


TUNED = [
    pytest.param(c, entry["m"], id=f"{' '.join(c['formats'])} {entry['m']} {c['extents']}")
    for c in CONFIGS
    if c["kernel"] in ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")
    and c["extents"] is not None
    and any(d["kernel"] == "triton_gemm" and d["formats"] == c["formats"] for d in CONFIGS)
    for entry in c["entries"]
]


@pytest.mark.parametrize(("config", "m"), TUNED)
def test_tuned_shapes_of_the_hopper_kernels(config: Any, m: int) -> None:
    torch = pytest.importorskip("torch")
    cupy = pytest.importorskip("cupy")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a GPU of capability 9.0")
    package = _module()
    hopper = _module("_hopper_gemm")
    recipe, out = config["formats"]
    layout, (n, k) = config["layout"], config["extents"]
    dtype = _module("_torch_device").DTYPES[out]
    torch.manual_seed(0)
    a, a_scale, a_value = _operand(torch, m, k, layout["a_element"], layout["a_block"], "cuda")
    b, b_scale, b_value = _operand(torch, n, k, layout["b_element"], layout["b_block"], "cuda")
    c = package.gemm(a, b, a_scale, b_scale, recipe=recipe, out_dtype=dtype)
    expected = a_value @ b_value.T
    assert (c.double() - expected).norm() <= 0.01 * expected.norm()
    # The same call on CuPy arrays, scales as its kernel reads them.
    if a_scale is not None:
        rows = layout["scales"].startswith("b1x")
        a_scale = hopper.columns_aligned(a_scale) if rows else a_scale
        both = rows and config["kernel"] == hopper.BLOCKS
        b_scale = hopper.columns_aligned(b_scale) if both else b_scale
    views = [None if t is None else hopper.view(t) for t in (a, b, a_scale, b_scale)]
    gemm_cuda = _module("gemm_cuda")
    torch.cuda.synchronize()
    again = gemm_cuda.gemm(*views, recipe=recipe, out_format=out)
    cupy.cuda.runtime.deviceSynchronize()
    assert (again == hopper.view(c)).all()


@pytest.mark.parametrize(("target", "source", "layout"), _layouts("triton_quantize"))
def test_quantize_keeps_the_values(target: str, source: str, layout: Any) -> None:
    device = _device()
    if device == "cpu" and layout["element"] != "int8":
        pytest.skip("Triton's interpreter does not round to 8-bit floats")
    torch = importlib.import_module("torch")
    package = _module()
    dtype = _module("_torch_device").DTYPES[source]
    torch.manual_seed(0)
    x = torch.randn(65, 160, device=device).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        codes, scales = package.quantize(x, target)
    wide = _spread(scales, layout["block"], *x.shape)
    relative, absolute = HALF_ULP[layout["element"]]
    limit = relative * x.double().abs() + absolute * wide
    assert ((codes.double() * wide - x.double()).abs() <= limit).all()


def _on_cupy() -> list[Any]:
    """What ``quantize_cuda`` has: random bits and transposed copies are ``quantize_packed``'s."""
    return [found for found in _layouts("cuda_quantize") if "stochastic" not in found[-1]]


@pytest.mark.parametrize(("target", "source", "layout"), _on_cupy())
def test_quantize_cuda_keeps_the_values(target: str, source: str, layout: Any) -> None:
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("needs a GPU")
    if source == "bf16" or layout["element"] != "int8":
        pytest.skip("NumPy decodes neither bfloat16 nor 8-bit floats")
    quantize = _module("quantize_cuda").quantize
    x = cupy.random.default_rng(0).standard_normal((65, 160), dtype=cupy.float32)
    x = x.astype({"fp16": cupy.float16, "fp32": cupy.float32}[source])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        codes, scales = quantize(x, target)
    rows, cols = layout["block"]
    wide = cupy.repeat(cupy.repeat(scales, rows or 65, 0)[:65], cols or 160, 1)[:, :160]
    error = cupy.abs(codes.astype(cupy.float64) * wide - x.astype(cupy.float64))
    assert (error <= HALF_ULP["int8"][1] * wide).all()
