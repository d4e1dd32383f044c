"""Descriptor of decoded products in Triton: formats that no tensor core takes, through 16 bits."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import ElementFormat, FloatElement, IntElement, PositElement, TensorFormat
from tiles.formats import element as lookup
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.gemm import GemmConfig, TritonGemm, launch_rules, shape_rules, waste_rules
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.triton.decoded_element import FOLDED, Element, block_format, wide_type
from tiles.problems import Gemm, Problem
from tiles.recipes import Recipe

__all__ = [
    "DecodedGemmConfig",
    "TritonDecodedGemm",
    "inner_problem",
    "loop_registers",
    "loop_smem_bytes",
    "native_smem_bytes",
    "template_element",
]

_CAPABILITY = 80
_WGMMA_CAPABILITY = 90
_MAX_REGISTERS = 255
_MAX_THREADS_PER_CTA = 1024
#: What block-scaled products work on at least: K of a step, and rows and columns by instruction.
_BLOCK_SCALED_K = 128
_TCGEN05_TILE, _MFMA_TILE = (128, 32), (32, 32)
#: Instructions that multiply codes with their block scales, and formats of these scales.
_SCALES_TAKEN = {"tcgen05": FOLDED, "mfma_scale": ("e8m0fnu",)}
_PRODUCT = TritonGemm()
#: What a thread of the decoding loop needs beside accumulators and operands: addresses, scales.
_OTHER_REGISTERS = 40
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
    block_k=_BLOCK_SCALED_K,
    group_m=1,
    num_warps=4,
    num_stages=2,
    tma=False,
    persistent=False,
    staged=False,
    native=True,
)


def template_element(fmt: ElementFormat) -> Element | None:
    """An element's facts as the template takes them; None where it has no decoding."""
    found = None
    match fmt:
        case FloatElement(name="bf16" | "fp16"):
            found = Element(kind="plain", bits=16)
        case FloatElement(signed=True, bits=4 | 6 | 8) if fmt.bias >= 0:
            found = Element(
                kind="float",
                bits=fmt.bits,
                mantissa=fmt.mantissa_bits,
                bias=fmt.bias,
                specials=fmt.specials.value,
            )
        case IntElement(signed=True, bits=4 | 6 | 8):
            found = Element(
                kind="int", bits=fmt.bits, mantissa=fmt.fraction_bits, offset=fmt.offset
            )
        case IntElement(bits=4 | 6 | 8, fraction_bits=0):
            found = Element(kind="uint", bits=fmt.bits)
        case PositElement(bits=4 | 6 | 8):
            found = Element(kind="posit", bits=fmt.bits, mantissa=fmt.es)
    # Sub-byte two's complement has no decoding: such integers are stored plus an offset.
    if found is not None and found.kind == "int" and found.bits < 8 and not found.offset:
        return None
    return found


def _folded(fmt: TensorFormat) -> str:
    """Format of the scales that are multiplied into the codes; "" where none are."""
    stored = "" if fmt.scaling is None else fmt.scaling.stored.name
    return stored if stored in FOLDED else ""


def _sides(recipe: Recipe) -> tuple[TensorFormat, TensorFormat]:
    return recipe.activation, recipe.weight


def wide_name(recipe: Recipe) -> str:
    """The 16-bit float that is multiplied.

    Raises:
        ValueError: none holds both operands, or an element has no decoding.
    """
    sides = []
    for fmt in _sides(recipe):
        element = template_element(fmt.element)
        if element is None:
            raise ValueError(f"{fmt.element} has no decoding")
        sides.append((element, _folded(fmt), fmt.element.name))
    return wide_type(*sides)


def _outer(fmt: TensorFormat, wide: str) -> str:
    """The format of the decoded operand: what is multiplied, and the scales that are left."""
    if fmt.scaling is None:
        return wide
    if _folded(fmt):
        return f"{wide}.tensor" if fmt.scaling.two_level else wide
    rows, cols = fmt.scaling.rows, fmt.scaling.cols
    if rows is None:
        return f"{wide}.tensor" if cols is None else f"{wide}.col"
    return f"{wide}.row" if cols is None else f"{wide}.b{rows}x{cols}"


def inner_problem(problem: Gemm) -> Gemm:
    """The product of the decoded operands, with the fp32 scales that are left.

    Raises:
        ValueError: see :func:`wide_name`.
    """
    wide = wide_name(problem.recipe)
    activation, weight = (_outer(fmt, wide) for fmt in _sides(problem.recipe))
    recipe = Recipe.of(
        f"decoded-{problem.recipe}",
        activation=activation,
        weight=weight,
        source=f"{problem.recipe}, decoded",
    )
    return Gemm(m=problem.m, n=problem.n, k=problem.k, recipe=recipe, out=problem.out)


def _block_scaled(problem: Gemm, limits: Limits) -> bool:
    """Whether the GPU's tensor cores take both operands with their block scales.

    NVIDIA's ``tcgen05`` takes scales of both kinds, AMD's scaled MFMA those of MX.
    """
    taken = [scales for name, scales in _SCALES_TAKEN.items() if name in limits.features]
    if not taken:
        return False
    names = []
    for fmt in _sides(problem.recipe):
        element, scaling = template_element(fmt.element), fmt.scaling
        if element is None or scaling is None or scaling.cols is None:
            return False
        names.append(block_format(element, scaling.stored.name, scaling.cols))
    activation, weight = (_folded(fmt) for fmt in _sides(problem.recipe))
    return "" not in names and activation == weight and activation in taken[0]


def native_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA of block-scaled tensor cores, bytes; 4-bit codes beside 8-bit ones
    are taken to be widened there."""
    m, n, k = table["block_m"], table["block_n"], table["block_k"]
    bits = max(fmt.element.bits for fmt in _sides(problem.recipe))
    stages = np.maximum(table["num_stages"], 1)
    staged_out = m * n * lookup(problem.out).bits // 8
    total: NDArray[np.int64] = np.maximum(stages * (m + n) * k * bits // 8, staged_out) + 4096
    return total


def loop_smem_bytes(problem: Gemm, table: ConfigTable, capability: int) -> NDArray[np.int64]:
    """Shared memory of a CTA that decodes in its loop, bytes: stages of codes, decoded operands.

    Codes leave their buffers for registers before they are multiplied, so one stage fewer holds
    them; decoded operands lie in shared memory once, but for activations that wgmma reads from
    registers, all but those of 6 bits.  Held against the compiler (triton 3.7.1, sm_90) on samples
    of legal configurations: never below; above by what ``mma.sync`` reads from registers as well.
    """
    m, n, k = table["block_m"], table["block_n"], table["block_k"]
    stages = np.maximum(table["num_stages"] - 1, 1)
    codes = sum(
        extent * k * fmt.element.bits // 8
        for extent, fmt in zip((m, n), _sides(problem.recipe), strict=True)
    )
    wgmma = (m >= 64) & (table["num_warps"] % 4 == 0) & (capability == _WGMMA_CAPABILITY)
    from_registers = wgmma & (problem.recipe.activation.element.bits != 6)
    decoded = 2 * (np.where(from_registers, 0, m) + n) * k
    staged_out = m * n * lookup(problem.out).bits // 8
    total: NDArray[np.int64] = np.maximum(stages * codes + decoded, staged_out) + 2048
    return total


def loop_registers(table: ConfigTable, warp_threads: int) -> NDArray[np.int64]:
    """Registers a thread takes where it decodes in the loop, estimated."""
    threads = np.maximum(table["num_warps"] * warp_threads, 1)
    sums = table["block_m"] * table["block_n"]
    decoded = (table["block_m"] + table["block_n"]) * table["block_k"] // 2
    total: NDArray[np.int64] = -(-(sums + decoded) // threads) + _OTHER_REGISTERS
    return total


class TritonDecodedGemm(Kernel):
    """``triton/gemm_decoded.py``: elements of at most 8 bits and their scales, through 16 bits."""

    name: ClassVar[str] = "triton_decoded_gemm"
    backend: ClassVar[Backend] = Backend.TRITON
    config_type: ClassVar[type[TileConfig]] = DecodedGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        recipe = problem.recipe
        if recipe.outliers is not None:
            return f"{self.name} has no second product for outliers: {recipe.outliers}"
        for fmt in _sides(recipe):
            if reason := self._undecoded(fmt):
                return reason
        if limits.vendor != "nvidia" and not _block_scaled(problem, limits):
            return f"{limits.gpu}: codes are decoded by instructions of NVIDIA's GPUs"
        if limits.vendor != "nvidia" and problem.k <= _BLOCK_SCALED_K // 2:
            return f"{limits.gpu}: K {problem.k}: scaled MFMA takes {_BLOCK_SCALED_K} at a time"
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
        if fmt.asymmetric and (scaling.cols is not None or _folded(fmt)):
            return f"{fmt}: zero points go with fp32 scales that do not change along K"
        if _folded(fmt) and scaling.cols is not None and scaling.cols & (scaling.cols - 1):
            return f"{fmt}: {scaling.cols} columns under a scale are no power of two"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Gemm)
        native = _block_scaled(problem, limits)
        return NumericPath.NATIVE if native else NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Gemm)
        # Ways to multiply, whether there are descriptors and persistent programs to choose, stages.
        ways: list[tuple[str, tuple[bool, ...], tuple[int, ...]]] = []
        if limits.vendor == "nvidia":
            ways += [("staged", (False, True), (3, 4, 5)), ("", (False,), (2, 3, 4))]
        if _block_scaled(problem, limits):
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
        loop = _loop_rules(problem, inner, table, limits)
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
        for n in (64, 32, 16):
            for k in (64, 32):
                for stages in (4, 3, 2):
                    config = DecodedGemmConfig(
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
                    table = ConfigTable.of([config])
                    if not any(r.broken[0] for r in self.rules(problem, table, limits)):
                        return config
        return _staged(own)

    @property
    def template(self) -> Path:
        return Path(__file__).with_name("triton") / "gemm_decoded.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.decoded_workload import DecodedGemmWorkload

        assert isinstance(problem, Gemm)
        return DecodedGemmWorkload(problem, device=device, seed=seed)

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.decoded_workload import DecodedGemmWorkload
        from tiles.kernels.offline_triton import META, facts_of

        assert isinstance(problem, Gemm)
        workload = DecodedGemmWorkload(problem, device=META, seed=0, num_sms=1)
        return facts_of(lambda: workload.compile(config), limits)


def _staged(product: GemmConfig) -> DecodedGemmConfig:
    """A configuration of the 16-bit product, behind a decoding pass."""
    # A default has none of the modes that this family's configurations do not have.
    modes = product.defaults()
    plain = {name: value for name, value in product.to_dict().items() if name not in modes}
    return DecodedGemmConfig.from_dict({**plain, "staged": True, "native": False})


def _loop_rules(problem: Gemm, inner: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What decoding in the loop needs, and what multiplying without decoding."""
    native = table["native"]
    loop = ~table["staged"] & ~native
    threads = table["num_warps"] * limits.warp_threads
    smem = np.where(
        native,
        native_smem_bytes(problem, table),
        loop_smem_bytes(problem, table, limits.capability),
    )
    taken = loop_registers(table, limits.warp_threads)
    per_thread = np.minimum(_MAX_REGISTERS, limits.registers_per_sm // np.maximum(threads, 1))
    least_m, least_n = _TCGEN05_TILE if limits.vendor == "nvidia" else _MFMA_TILE
    return [
        Rule(
            "decoding",
            ~native & (limits.vendor != "nvidia"),
            lambda r: f"{limits.gpu}: codes are decoded by instructions of NVIDIA's GPUs",
        ),
        Rule(
            "native",
            native & (table["staged"] | (not _block_scaled(problem, limits))),
            lambda r: f"{limits.gpu} has no block-scaled products of {problem.recipe} (or staged)",
        ),
        # tcgen05 works on 128 rows; Triton exchanges its scales in pieces of 128 x 4.
        Rule(
            "block-scaled tile",
            native
            & (
                (table["block_m"] < least_m)
                | (table["block_n"] < least_n)
                | (table["block_k"] < _BLOCK_SCALED_K)
            ),
            lambda r: (
                f"tile {table['block_m'][r]}x{table['block_n'][r]}x{table['block_k'][r]}: "
                f"block-scaled products take at least {least_m}x{least_n}x{_BLOCK_SCALED_K}"
            ),
        ),
        Rule(
            "in the loop",
            ~table["staged"] & (table["tma"] | table["persistent"]),
            lambda r: "tma and persistent belong to staged configurations",
        ),
        Rule(
            "promotion",
            loop & inner.recipe.blockwise,
            lambda r: f"fp32 scales of {problem.recipe} change along K: staged only",
        ),
        Rule(
            "threads",
            ~table["staged"] & (threads > min(_MAX_THREADS_PER_CTA, limits.threads_per_sm)),
            lambda r: f"{threads[r]} threads > {_MAX_THREADS_PER_CTA} a CTA",
        ),
        Rule(
            "shared memory",
            ~table["staged"] & (smem > limits.smem_bytes_per_cta),
            lambda r: f"smem {smem[r]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
        ),
        Rule(
            "registers",
            loop & (taken > per_thread),
            lambda r: f"accumulators and operands take {taken[r]} of {per_thread[r]} registers",
        ),
    ]
