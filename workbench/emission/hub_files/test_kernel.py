"""The kernel's own tests: its digests, the choice of configurations, answers on small shapes.

Answers need a GPU, or ``TRITON_INTERPRET=1`` in the environment.  Operands are chosen so that sums
are exact: whatever the order of additions, there is one right answer.
"""

import base64
import hashlib
import importlib
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

VARIANT = Path(__file__).resolve().parent.parent / "build" / "torch-cuda"
METADATA = json.loads((VARIANT / "metadata.json").read_text(encoding="utf-8"))


def _layouts(family: str) -> "list[Any]":
    """(formats, layout) of everything that a kernel family serves."""
    found = {}
    for path in sorted((VARIANT / "configs").glob("*/about.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["kernel"] == family:
            tuned = next(one for one in about["gpus"] if one["gpu"] is not None)
            found[tuple(about["formats"])] = tuned["layout"]
    return sorted(found.items())


@pytest.fixture(scope="module")
def kernel() -> Any:
    """The kernel, as programs load it from disk."""
    return pytest.importorskip("kernels").get_local_kernel(VARIANT)


@pytest.fixture
def device() -> str:
    if importlib.import_module("torch").cuda.is_available():
        return "cuda"
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs a GPU, or TRITON_INTERPRET=1")
    return "cpu"


def _part(kernel: Any, name: str) -> Any:
    return importlib.import_module(f"{kernel.__name__}.{name}")


def _grid(block: Any, rows: int, cols: int) -> "tuple[int, int]":
    return (-(-rows // block[0]) if block[0] else 1, -(-cols // block[1]) if block[1] else 1)


def _spread(scales: Any, block: Any, rows: int, cols: int) -> Any:
    """One fp64 scale an element."""
    wide = scales.double().repeat_interleave(block[0] or rows, 0)[:rows]
    return wide.repeat_interleave(block[1] or cols, 1)[:, :cols]


def _operand(kernel: Any, rows: int, cols: int, element: str, block: Any, device: str) -> Any:
    """Codes -1, 0 and 1 and scales 1/2, 1 and 2, and the fp64 values that they stand for."""
    torch = importlib.import_module("torch")
    codes = torch.randint(-1, 2, (rows, cols), device=device).to(
        _part(kernel, "_torch_device").DTYPES[element]
    )
    if block is None:
        return codes, None, codes.double()
    scales = 2.0 ** torch.randint(-1, 2, _grid(block, rows, cols), device=device).float()
    return codes, scales, codes.double() * _spread(scales, block, rows, cols)


@pytest.mark.kernels_ci
def test_files_are_those_of_the_metadata() -> None:
    for name, expected in METADATA["digest"]["files"].items():
        found = hashlib.sha256((VARIANT / name).read_bytes()).digest()
        assert base64.b64encode(found).decode() == expected, name


@pytest.mark.kernels_ci
@pytest.mark.parametrize("m", [1, 7, 16, 100, 1 << 20])
def test_the_nearest_tuned_extent_is_taken(kernel: Any, m: int) -> None:
    lookup = _part(kernel, "_lookup")
    assert lookup.FILES
    for file in lookup.FILES:
        keys = [key for key, _ in file.entries]
        nearest = min(keys, key=lambda key: abs(math.log(m / key)))
        assert lookup.nearest(m, keys) == nearest
        if file.extents is not None:
            shape = (file.kernel, file.formats, file.extents)
            chosen = kernel.tuning.resolve(*shape, m, file.devices[0])
            assert chosen == dict(file.entries)[nearest]


@pytest.mark.kernels_ci
@pytest.mark.parametrize(("formats", "layout"), _layouts("triton_gemm"))
def test_gemm_is_the_product_of_the_values(
    kernel: Any, device: str, formats: Any, layout: Any
) -> None:
    torch = importlib.import_module("torch")
    recipe, out = formats
    dtype = _part(kernel, "_torch_device").DTYPES[out]
    torch.manual_seed(0)
    m, n, k = 33, 65, 160
    a, a_scale, a_value = _operand(kernel, m, k, layout["a_element"], layout["a_block"], device)
    b, b_scale, b_value = _operand(kernel, n, k, layout["b_element"], layout["b_block"], device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        c = kernel.gemm(a, b, a_scale, b_scale, recipe=recipe, out_dtype=dtype)
    assert (c == (a_value @ b_value.T).to(dtype)).all()


@pytest.mark.kernels_ci
@pytest.mark.parametrize(("formats", "layout"), _layouts("triton_quantize"))
def test_quantize_finds_the_codes_again(
    kernel: Any, device: str, formats: Any, layout: Any
) -> None:
    torch = importlib.import_module("torch")
    target, source = formats
    if device == "cpu" and layout["element"] != "int8":
        pytest.skip("Triton's interpreter does not round to 8-bit floats")
    dtypes = _part(kernel, "_torch_device").DTYPES
    element = dtypes[layout["element"]]
    most = 127.0 if layout["element"] == "int8" else torch.finfo(element).max
    torch.manual_seed(0)
    # Everything has one magnitude: codes are the largest ones, and scales that over them.
    signs = torch.randint(0, 2, (65, 160), device=device) * 2 - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        codes, scales = kernel.quantize((4 * signs).to(dtypes[source]), target)
    assert (codes.float() == most * signs).all()
    assert (scales == torch.tensor(4.0, device=device) / most).all()


@pytest.mark.kernels_ci
@pytest.mark.parametrize(("formats", "layout"), _layouts("triton_transpose"))
def test_transpose_turns_codes(kernel: Any, device: str, formats: Any, layout: Any) -> None:
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    codes = torch.randint(-128, 128, (65, 160), device=device).to(torch.int8)
    element = _part(kernel, "_torch_device").DTYPES[layout["element"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        turned = kernel.transpose(codes.view(element))
    assert (turned.view(torch.int8) == codes.T).all()
