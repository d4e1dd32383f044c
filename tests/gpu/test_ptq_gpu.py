"""Quantised models on a GPU: every layer against the codes of the same file, read on the CPU."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat
from tiles.kernels import kernel
from tiles.kernels.accuracy import compare, gemm_reference
from tiles.kernels.arithmetic import Arithmetic, gemm_arithmetic
from tiles.kernels.decoded_formats import inner_problem, wide_name
from tiles.kernels.decoded_workload import multiplied_values
from tiles.kernels.gemm_workload import must_decode
from tiles.kernels.outlier_workload import arithmetic_of
from tiles.kernels.weight_only_workload import WeightOnlyWorkload, multiplied_weights
from tiles.problems import Gemm
from tiles.recipes import Recipe, recipe
from workbench.nn.cuda_device import limits_of
from workbench.ptq import EXTENDED, Quantized, load, quantize
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.routes import problem_of

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
CODES = "cuda backend"
DECODED = "triton_decoded_gemm"
#: What multiplies a linear layer under each recipe, on a GPU that has a file and CuPy.
ON_KERNELS = {
    **dict.fromkeys(("fp8-ptq-e4m3", "fp8-bert", "e4m3-row", "deepseek-fp8"), CODES),
    **dict.fromkeys(("int8-ptq", "int8-tensor", "int8-row"), CODES),
    **dict.fromkeys(("w4a16-g128", "w8a16"), "triton_weight_only"),
    "llm-int8": "triton_outlier_gemm",
    "fp8-ptq-e5m2": CODES,
    **dict.fromkeys(("fp8-ptq-e3m4", "fp8-ptq-mixed", "posit8", "nvfp4"), DECODED),
    **dict.fromkeys(("mxfp6-e2m3", "mxfp4", "mxint8"), DECODED),
}
#: Served by a family of capability 9.0 alone.
ON_HOPPER = ("int8-b128", "jetfire", "mxfp8-e4m3")
#: Weights that no kernel of linear layers multiplies: the values of codes are.
ON_VALUES = ("nf4.g64", "uint4.g128")


@pytest.fixture(scope="module", autouse=True)
def served() -> None:
    """A device that a file describes, with CuPy; else layers run on values, and say so."""
    try:
        limits_of(torch.device(DEVICE))
    except ValueError as error:
        pytest.skip(str(error))


class Small(nn.Module):
    """Two layers without biases, whose outputs are their products alone."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(256, 384, bias=False), nn.Linear(384, 256, bias=False)
        with torch.no_grad():
            for layer in (self.first, self.second):
                drawn = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(drawn / layer.in_features**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.second(F.gelu(self.first(x)))
        return y


def inputs(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows that fill no tile, with two features that hold outliers."""
    x = torch.randn(5, 7, 256, generator=torch.Generator().manual_seed(1))
    x[..., [3, 177]] *= 12
    return x.to(dtype)


@dataclass(frozen=True, slots=True)
class Seen:
    """One layer's input and output, on the CPU."""

    x: torch.Tensor  #: (rows, K)
    y: torch.Tensor  #: (rows, N)


def run(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, Seen]]:
    """The model's output, and what went into and came out of each quantised linear layer."""
    seen: dict[str, Seen] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):

            def note(
                layer: nn.Module, given: tuple[torch.Tensor], y: torch.Tensor, name: str = name
            ) -> None:
                flat = [t.detach().cpu().reshape(-1, t.shape[-1]) for t in (given[0], y)]
                seen[name] = Seen(*flat)

            hooks.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            y = model(x.to(DEVICE)).cpu()
    finally:
        for hook in hooks:
            hook.remove()
    assert seen
    return y, seen


def made_on_gpu(name: str, dtype: torch.dtype = torch.float32) -> Quantized:
    x = inputs(dtype).to(DEVICE)
    return quantize(Small().to(DEVICE, dtype), name, calibration=[x, 0.5 * x])


def folds(problem: Gemm) -> bool:
    """Whether weights alone are scaled in 16 bits before they are multiplied."""
    config = kernel("triton_weight_only").default(problem, limits_of(torch.device(DEVICE)))
    return bool(config.to_dict()["fold"])


def operands(
    name: str, layer: QuantizedLinear, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer multiplies, from its codes as they are on the CPU: (rows, K), (N, K) fp64."""
    operand, codes = layer.operator.operands["input"], layer.codes
    assert codes is not None
    if operand.format.element.bits >= 16:  # weights alone are quantised
        problem = problem_of(len(x), codes, operand.format, torch.float32)
        sixteen = x.to(torch.bfloat16)
        return sixteen.double(), multiplied_weights(codes, torch.bfloat16, fold=folds(problem))
    if ON_KERNELS.get(name) == DECODED:
        wide = wide_name(problem_of(len(x), codes, operand.format, torch.float32).recipe)
        return multiplied_values(operand.codes(x), wide), multiplied_values(codes, wide)
    weight = codes.dequantize(torch.float64)
    if layer.apart is None:
        return operand.codes(x).dequantize(torch.float64), weight
    wide = (x.abs() > layer.apart.outliers.threshold).any(dim=0)
    assert int(wide.sum()) >= (2 if x.shape[1] == 256 else 0)
    low = operand.codes(x.masked_fill(wide, 0.0)).dequantize(torch.float64)
    full = layer.apart.full(layer.values)[:, wide].half().double()
    return torch.cat((low, x[:, wide].half().double()), 1), torch.cat((weight, full), 1)


def arithmetic(name: str, problem: Gemm) -> Arithmetic:
    """How the kernel adds up: what bounds follow from (``tiles/kernels/accuracy.py``)."""
    if recipe(name).outliers is not None:
        return arithmetic_of(replace(problem, recipe=recipe(name)), interpreted=False)
    if problem.recipe.activation.element.bits >= 16:
        workload = WeightOnlyWorkload(problem, device=DEVICE, seed=0)
        return workload.arithmetic(fold=folds(problem))
    if ON_KERNELS.get(name) == DECODED:
        return gemm_arithmetic(inner_problem(problem), decode=True)
    return gemm_arithmetic(problem, decode=must_decode(problem.recipe, DEVICE))


def assert_products(name: str, model: nn.Module, twin: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Every layer's output lies within the bounds that its operands and arithmetic give.

    Returns:
        The model's output.
    """
    y, seen = run(model, x)
    for place, one in seen.items():
        layer = twin.get_submodule(place)
        assert isinstance(layer, QuantizedLinear)
        assert layer.codes is not None
        problem = problem_of(
            len(one.x), layer.codes, layer.operator.operands["input"].format, one.y.dtype
        )
        reference = gemm_reference(*operands(name, layer, one.x), arithmetic(name, problem))
        verdict = compare(one.y, reference)
        assert verdict.ok, f"{name}, {place}: {verdict.reason}"
    return y


def hopper() -> bool:
    return torch.cuda.get_device_capability()[0] == 9


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in (*ON_KERNELS, *ON_HOPPER)),
        *((name, torch.bfloat16) for name in ("fp8-ptq-e4m3", "int8-row", "w8a16", "llm-int8")),
        *((name, torch.bfloat16) for name in ("fp8-ptq-e3m4", "mxfp4")),
    ],
)
def test_kernels_multiply_what_the_file_holds(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    if name in ON_HOPPER and not hopper():
        pytest.skip("its kernel is one of capability 9.0")
    made, x = made_on_gpu(name, dtype), inputs(dtype)
    path = made.save(tmp_path / "model.safetensors")
    twin = load(Small().to(dtype), path, name)
    y = assert_products(name, made.model, twin.model, x)
    route = ON_KERNELS.get(name, CODES)
    assert set(made.ran.values()) == {route}
    # Read back onto the GPU it computes what it did, on the same kernels.
    again = load(Small().to(DEVICE, dtype), path, name)
    assert torch.equal(assert_products(name, again.model, twin.model, x), y)
    assert again.ran == made.ran
    assert not again.unmet


@pytest.mark.parametrize("weight", ON_VALUES)
def test_formats_without_a_kernel_are_computed_from_their_values(
    weight: str, tmp_path: Path
) -> None:
    name = Recipe(
        name=f"int8.row by {weight}",
        activation=TensorFormat.parse("int8.row"),
        weight=TensorFormat.parse(weight),
        source="a product without a kernel",
    )
    x = inputs()
    made = quantize(Small().to(DEVICE), name, calibration=[x.to(DEVICE)])
    twin = load(Small(), made.save(tmp_path / "model.safetensors"), name)
    _, seen = run(made.model, x)
    assert all(told.startswith("reference (values of codes") for told in made.ran.values())
    for place, one in seen.items():
        layer = twin.model.get_submodule(place)
        assert isinstance(layer, QuantizedLinear)
        a = layer.operator.operands["input"].rounded(one.x).double()
        b = layer.values.double()
        # K products and K - 1 sums in fp32, in any order, and operands rounded to fp32 before.
        sizes = a.abs() @ b.abs().t()
        bound = (one.x.shape[1] + 4) * 2.0**-24 * sizes
        worst = float(((one.y.double() - a @ b.t()).abs() / bound).max())
        assert worst <= 1, f"{weight}, {place}: {worst:.3g} of the bound"


@pytest.mark.parametrize("name", [*ON_KERNELS, *ON_HOPPER])
def test_codes_and_scales_are_those_of_the_cpu(name: str) -> None:
    there = made_on_gpu(name)
    here = quantize(Small(), name, calibration=[inputs(), 0.5 * inputs()])
    for place in ("first", "second"):
        found, expected = (one.model.get_submodule(place).codes for one in (there, here))
        assert torch.equal(found.bits.cpu(), expected.bits)
        if expected.scales is not None:
            assert torch.equal(found.scales.cpu(), expected.scales)
    found, expected = (
        one.session.operators["first"].operands["input"].scale for one in (there, here)
    )
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert torch.equal(found.cpu(), expected)  # the inputs are the same, to the bit


class Mixed(nn.Module):
    """An embedding, torch's own encoder under a padding mask, a convolution, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.convolution = nn.Conv1d(64, 64, 3, padding="same")

    def forward(self, ids: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.table(ids), src_key_padding_mask=padding)
        x = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return F.linear(x, self.table.weight)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(2))
    padding = torch.zeros(4, 16, dtype=torch.bool)
    padding[1, 12:] = True
    return ids, padding


@pytest.mark.parametrize("name", ["fp8-ptq-e4m3", "int8-ptq", "fp8-ptq-e5m2", "mxfp4"])
def test_a_model_of_many_operators_is_that_of_the_cpu(name: str, tmp_path: Path) -> None:
    """The two differ by less than quantisation itself does.

    Sums in another order, of FP8 codes in 14 bits, and convolutions in TF32 move what is rounded
    next by 2^-11 of its size at most.  A code is then a step off with a chance of that over the
    width of a step: 2^-4 in FP8, and 2^-5 of the root mean square in INT8, where the largest value
    is four of them.  An error of a step in one of 64 elements is 12 / 64 of the energy that
    rounding leaves, a twelfth of a step's square in each: 0.44 of its norm.
    """
    scheme = replace(EXTENDED, name="all", keep_first_last=False)
    ids, padding = batch()
    there = quantize(
        Mixed().eval().to(DEVICE), name, calibration=[(ids.to(DEVICE), padding.to(DEVICE))],
        scheme=scheme,
    )  # fmt: skip
    here = load(Mixed().eval(), there.save(tmp_path / "model.safetensors"), name)
    with torch.no_grad():
        exact, expected = (model(ids, padding) for model in (Mixed().eval(), here.model))
        found = there.model(ids.to(DEVICE), padding.to(DEVICE)).cpu()
    kept = ~padding
    noise = float((expected - exact)[kept].norm())
    apart = float((found - expected)[kept].norm())
    assert noise > 0
    assert apart < noise, f"{apart:.3g} apart, where quantising costs {noise:.3g}"
    kinds = {one.kind for one in there.operators}
    assert {"linear", "conv", "matmul", "embedding", "add", "layernorm"} <= kinds
    assert not there.unmet
    assert not here.unmet
