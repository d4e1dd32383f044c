"""Ways to run a linear layer's product on kernels: two operands of codes, or weights alone."""

from typing import ClassVar, Protocol

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels import kernel
from tiles.kernels.base import Limits
from tiles.kernels.triton.decoded_operand import StoredMatrix
from tiles.kernels.triton.weight_layout import PackedWeight
from tiles.problems import Gemm
from tiles.recipes import OutlierColumns, Recipe
from workbench.nn.backend import Backend
from workbench.nn.choices import Choice, Choices
from workbench.nn.codes import Codes
from workbench.ptq.operand import Operand, Scales

__all__ = [
    "CodesRoute",
    "FamilyRoute",
    "Held",
    "OutlierRoute",
    "Route",
    "WeightOnlyRoute",
    "problem_of",
    "under_one",
]

#: What a layer keeps for its routes, by their names: its weight as a kernel's layout has it.
Held = dict[str, PackedWeight | StoredMatrix | QuantizedTensor]

#: Rows of codes are padded to a multiple of this before products load them.
_ROW_STEP = 16
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Route(Protocol):
    """Multiplies by kernels."""

    @property
    def name(self) -> str:
        """What runs."""

    def refusal(self, problem: Gemm) -> str:
        """Why it does not serve a problem; empty where it does."""

    def product(
        self,
        operand: Operand,
        x: torch.Tensor,
        weight: QuantizedTensor,
        bias: torch.Tensor | None,
        held: Held,
    ) -> torch.Tensor:
        """``x · W^T + bias`` of (rows, K) in the dtype of ``x``.

        Args:
            held: what the layer keeps for the route, empty at first.
        """


def under_one(fmt: TensorFormat) -> TensorFormat:
    """A direct cast to e5m2 and its like as a format with one scale, of 1; others as they are."""
    if fmt.scaling is not None or fmt.element.bits >= 16 or fmt.element.name not in CODE_DTYPES:
        return fmt
    return TensorFormat.parse(f"{fmt.element}.tensor")


def problem_of(
    rows: int, weight: QuantizedTensor, activation: TensorFormat, out: torch.dtype
) -> Gemm:
    """The product of a layer as kernels know it."""
    n, k = weight.codes.shape
    recipe = Recipe(
        name=f"{activation} by {weight.format}",
        activation=under_one(activation),
        weight=under_one(weight.format),
        source="operands of a quantised layer",
    )
    return Gemm(m=rows, n=n, k=k, recipe=recipe, out=_NAMES[out])


class CodesRoute:
    """Both operands in codes, by a backend of the training layers."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def name(self) -> str:
        """As the backend has it."""
        return f"{self.backend.name} backend"

    def refusal(self, problem: Gemm) -> str:
        """Asks the backend's choice of kernels, where it has one; a reference serves everything."""
        choices = getattr(self.backend, "choices", None)
        if not isinstance(choices, Choices):
            return ""
        k = -(-problem.k // _ROW_STEP) * _ROW_STEP
        found = choices.of(
            Gemm(m=problem.m, n=problem.n, k=k, recipe=problem.recipe, out=problem.out)
        )
        return "" if isinstance(found, Choice) else found.reason

    def product(
        self,
        operand: Operand,
        x: torch.Tensor,
        weight: QuantizedTensor,
        bias: torch.Tensor | None,
        held: Held,
    ) -> torch.Tensor:
        if operand.scales is Scales.DIRECT:
            codes = Codes(main=_under_one(operand.codes(x)))
            unscaled = held.get("under one")
            if unscaled is None:
                unscaled = held["under one"] = _under_one(weight)
            assert isinstance(unscaled, QuantizedTensor)
            weight = unscaled
        elif operand.scale is None:
            codes = self.backend.quantize(x, operand.format)
        else:
            codes = Codes(main=operand.codes(x))
        return self.backend.product(codes, Codes(main=weight), dtype=x.dtype, bias=bias)


def _under_one(codes: QuantizedTensor) -> QuantizedTensor:
    """Codes of a direct cast under a scale of 1, as kernels take them."""
    fmt = under_one(codes.format)
    scales = torch.ones(1, 1, device=codes.codes.device)
    return QuantizedTensor(codes=codes.codes, scales=scales, format=fmt)


class FamilyRoute:
    """What routes over a kernel family have in common."""

    name: ClassVar[str]  #: the family's

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.family = kernel(self.name)

    def refusal(self, problem: Gemm) -> str:
        """Asks the kernel family."""
        return self.family.refusal(problem, self.limits) or ""


class WeightOnlyRoute(FamilyRoute):
    """Activations in 16 bits, weights decoded by ``triton_weight_only``."""

    name: ClassVar[str] = "triton_weight_only"

    def product(
        self,
        operand: Operand,
        x: torch.Tensor,
        weight: QuantizedTensor,
        bias: torch.Tensor | None,
        held: Held,
    ) -> torch.Tensor:
        from tiles.kernels.triton import gemm_weight_only
        from tiles.kernels.triton.split_workspace import MAX_SPLIT_TILES, workspace_words
        from tiles.kernels.weight_only_workload import pack_quantized
        from workbench.emission.package_files._workspace import zeroed_words

        packed = held.get(self.name)
        if packed is None:
            packed = held[self.name] = pack_quantized(weight)
        assert isinstance(packed, PackedWeight)
        sixteen = torch.bfloat16 if operand.format.element.name == "bf16" else torch.float16
        problem = problem_of(len(x), weight, operand.format, torch.float32)
        config = self.family.default(problem, self.limits).to_dict()
        words = workspace_words(config, problem.m, problem.n)
        made = torch.empty(problem.m, problem.n, dtype=torch.float32, device=x.device)
        gemm_weight_only.launch(
            x.to(sixteen),
            packed,
            made,
            config=config,
            workspace=zeroed_words(words, MAX_SPLIT_TILES, x.device) if words else None,
        )
        return (made if bias is None else made + bias.float()).to(x.dtype)


class OutlierRoute(FamilyRoute):
    """Codes, and outlier columns apart in 16 bits, by ``triton_outlier_gemm``."""

    name: ClassVar[str] = "triton_outlier_gemm"

    def product(
        self,
        x: torch.Tensor,
        weight: QuantizedTensor,
        full: torch.Tensor,
        bias: torch.Tensor | None,
        recipe: Recipe,
    ) -> torch.Tensor | str:
        """``x · W^T + bias`` of (rows, K) in the dtype of ``x``, or why the kernel refuses.

        Args:
            full: (N, K) weights that outlier columns are multiplied by.
            recipe: with outlier columns.
        """
        from tiles.kernels.gemm_workload import launch_block
        from tiles.kernels.outlier_packing import column_capacity, pack_columns
        from tiles.kernels.triton import gemm_outliers

        n, k = weight.codes.shape
        problem = Gemm(m=len(x), n=n, k=k, recipe=recipe, out="fp32")
        if k % _ROW_STEP:
            return f"K of {k}: rows of codes are loaded in steps of {_ROW_STEP}"
        if reason := self.family.refusal(problem, self.limits):
            return reason
        outliers = recipe.outliers
        assert isinstance(outliers, OutlierColumns)
        # Counted on the host: memory for all of K would copy the whole weight on every call.
        count = int((x.abs() > outliers.threshold).any(dim=0).sum())
        capacity = column_capacity(count)
        packed = pack_columns(x, full, recipe.activation, outliers, capacity)
        a_block, b_block = launch_block(recipe.activation), launch_block(weight.format)
        assert a_block is not None
        assert b_block is not None
        assert weight.scales is not None
        made = torch.empty(problem.m, n, dtype=torch.float32, device=x.device)
        gemm_outliers.launch(
            packed.codes,
            weight.codes,
            made,
            packed.scales,
            weight.scales,
            packed.outliers,
            a_block=a_block,
            b_block=b_block,
            config=self.family.default(problem, self.limits).to_dict(),
        )
        return (made if bias is None else made + bias.float()).to(x.dtype)
