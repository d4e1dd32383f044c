"""Descriptor of decoded products in Triton: formats that no tensor core takes, through 16 bits."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from tiles.formats import TensorFormat
from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.decoded_formats import (
    block_scaled,
    folded,
    inner_problem,
    sides_of,
    template_element,
)
from tiles.kernels.decoded_rules import BLOCK_SCALED_K, loop_rules
from tiles.kernels.first_legal import first_legal
from tiles.kernels.gemm import GemmConfig, TritonGemm
from tiles.kernels.gemm_rules import launch_rules, shape_rules, waste_rules
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.triton.decoded_element import FOLDED
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import Gemm, Problem

__all__ = ["DecodedGemmConfig", "TritonDecodedGemm"]

_CAPABILITY = 80
_PRODUCT = TritonGemm()
#: Rows of activations from which decoding once is the better guess.
_STAGED_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedGemmConfig(TileConfig):
    """One configuration of the decoded product."""

    block_m: int  #: CTA tile rows, elements
    block_n: int  #: CTA tile columns, elements
    block_k: int  #: depth of one K-iteration, elements
    group_m: int  #: raster group: tiles along M visited before moving along N
    num_warps: int
    num_stages: int  #: depth of the shared-memory pipeline
    tma: bool  #: the staged product loads and stores through descriptors
    persistent: bool  #: one CTA per multiprocessor walks over the staged product's tiles
    staged: bool  #: operands are decoded once, into a workspace, not in the loop
    native: bool  #: block-scaled tensor cores take codes and scales as they are


#: A small tile of scaled MFMA, with one stage ahead.
_BLOCK_SCALED = DecodedGemmConfig(
    block_m=64,
    block_n=64,
    block_k=BLOCK_SCALED_K,
    group_m=1,
    num_warps=4,
    num_stages=2,
    tma=False,
    persistent=False,
    staged=False,
    native=True,
)


class TritonDecodedGemm(TritonKernel):
    """``triton/gemm_decoded.py``: elements of at most 8 bits and their scales, through 16 bits."""

    name: ClassVar[str] = "triton_decoded_gemm"
    config_type: ClassVar[type[TileConfig]] = DecodedGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        recipe = problem.recipe
        if recipe.outliers is not None:
            return f"{self.name} has no second product for outliers: {recipe.outliers}"
        for fmt in sides_of(recipe):
            if reason := self._undecoded(fmt):
                return reason
        if limits.vendor != "nvidia" and not block_scaled(problem, limits):
            return f"{limits.gpu}: codes are decoded by instructions of NVIDIA's GPUs"
        if limits.vendor != "nvidia" and problem.k <= BLOCK_SCALED_K // 2:
            return f"{limits.gpu}: K {problem.k}: scaled MFMA takes {BLOCK_SCALED_K} at a time"
        if limits.vendor == "nvidia" and limits.capability < _CAPABILITY:
            return f"{limits.gpu}: capability {limits.capability} < {_CAPABILITY}"
        served = _PRODUCT.refusal(problem, limits) is None
        if served and _PRODUCT.path(problem, limits) is NumericPath.NATIVE:
            return f"{limits.gpu} multiplies {recipe} as it is stored: {_PRODUCT.name} does that"
        try:
            inner = inner_problem(problem)
        except ValueError as error:
            return str(error)
        return _PRODUCT.refusal(inner, limits)

    def _undecoded(self, fmt: TensorFormat) -> str | None:
        """Why the template does not decode operands of this format; None: it does."""
        if template_element(fmt.element) is None:
            return f"{self.name} decodes floats, integers and posits of 4, 6 or 8 bits, not {fmt}"
        scaling = fmt.scaling
        if scaling is None:
            return None
        if fmt.element.bits == 16:
            return f"{self.name} takes 16-bit operands without scales, not {fmt}"
        if scaling.stored.name not in ("fp32", *FOLDED):
            return f"{self.name} takes scales in fp32, {' or '.join(FOLDED)}, not {fmt}"
        if fmt.asymmetric and (scaling.cols is not None or folded(fmt)):
            return f"{fmt}: zero points go with fp32 scales that do not change along K"
        if folded(fmt) and scaling.cols is not None and scaling.cols & (scaling.cols - 1):
            return f"{fmt}: {scaling.cols} columns under a scale are no power of two"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Gemm)
        native = block_scaled(problem, limits)
        return NumericPath.NATIVE if native else NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Gemm)
        # Ways to multiply, whether there are descriptors and persistent programs to choose, stages.
        ways: list[tuple[str, tuple[bool, ...], tuple[int, ...]]] = []
        if limits.vendor == "nvidia":
            ways += [("staged", (False, True), (3, 4, 5)), ("", (False,), (2, 3, 4))]
        if block_scaled(problem, limits):
            ways.append(("native", (False,), (2, 3, 4)))
        tables = [
            ConfigTable.product(
                DecodedGemmConfig,
                block_m=(16, 32, 64, 128, 256),
                block_n=(16, 32, 64, 128, 256),
                block_k=(32, 64, 128),
                group_m=(1, 8),
                num_warps=(4, 8),
                num_stages=stages,
                tma=choices,
                persistent=choices,
                staged=(way == "staged",),
                native=(way == "native",),
            )
            for way, choices, stages in ways
        ]
        columns = {
            name: np.concatenate([table[name] for table in tables]) for name in tables[0].columns
        }
        return ConfigTable(DecodedGemmConfig, columns)

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """The staged product's own rules, and those of the decoding loop."""
        assert isinstance(problem, Gemm)
        inner = inner_problem(problem)
        staged = table["staged"]
        common = [*shape_rules(inner, table, limits), *waste_rules(inner, table, limits)]
        product = [
            Rule(rule.name, rule.broken & staged, rule.explain)
            for rule in launch_rules(inner, table, limits)
        ]
        loop = loop_rules(problem, inner, table, limits)
        return [*common, *product, *loop]

    def default(self, problem: Problem, limits: Limits) -> DecodedGemmConfig:
        """Decoding once and the product's own default for many rows, else small tiles in a loop."""
        assert isinstance(problem, Gemm)
        if limits.vendor != "nvidia":
            wide = problem.m > 64 and problem.n > 64
            return replace(_BLOCK_SCALED, block_m=128, block_n=128) if wide else _BLOCK_SCALED
        inner = inner_problem(problem)
        own = _PRODUCT.default(inner, limits)
        if problem.m > _STAGED_ROWS or inner.recipe.blockwise:
            return _staged(own)
        block_m = 16 if problem.m <= 16 else 64
        in_the_loop = [
            DecodedGemmConfig(
                block_m=block_m,
                block_n=n,
                block_k=k,
                group_m=8 if problem.m > block_m else 1,
                num_warps=4,
                num_stages=stages,
                tma=False,
                persistent=False,
                staged=False,
                native=False,
            )
            for n in (64, 32, 16)
            for k in (64, 32)
            for stages in (4, 3, 2)
        ]
        return first_legal(self, problem, limits, [*in_the_loop, _staged(own)])

    @property
    def template(self) -> Path:
        return Path(__file__).with_name("triton") / "gemm_decoded.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.decoded_workload import DecodedGemmWorkload

        assert isinstance(problem, Gemm)
        return DecodedGemmWorkload(problem, device=device, seed=seed)

    def blank_workload(self, problem: Problem, limits: Limits) -> Workload:
        from tiles.kernels.decoded_workload import DecodedGemmWorkload
        from tiles.kernels.offline_triton import META

        assert isinstance(problem, Gemm)
        return DecodedGemmWorkload(problem, device=META, seed=0, num_sms=1)


def _staged(product: GemmConfig) -> DecodedGemmConfig:
    """A configuration of the 16-bit product, behind a decoding pass."""
    # A default has none of the modes that this family's configurations do not have.
    modes = product.defaults()
    plain = {name: value for name, value in product.to_dict().items() if name not in modes}
    return DecodedGemmConfig.from_dict({**plain, "staged": True, "native": False})
