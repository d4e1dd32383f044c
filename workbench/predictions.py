"""Which format pays on a shape: predicted time, speed-up and quantisation error per recipe."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from sim import Gpu, Prediction, load_gpu, matmul_error, price, unpriced
from sim.calibration.folder import choose_calibration
from sim.energy import LaunchEnergy, launch_energy
from tiles.formats import ElementFormat
from tiles.intake import shown
from tiles.kernels import Kernel, kernel, kernels, telling
from tiles.problems import Gemm, Problem, Quantize, parse_shape
from tiles.recipes import RECIPES, Recipe, recipe
from workbench.arguments import count_of, items_of, path_of
from workbench.pareto import pareto

if TYPE_CHECKING:
    from sim.calibration import Calibration

__all__ = ["PredictedRow", "PredictionReport", "Pricer", "RefusedRow", "predict"]

SCHEMA = "tile-workbench/predict/1"
BASELINE = "bf16"
_SHAPE_RULE = "(M, N, K) or 'MxNxK' for each shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRow:
    """One recipe on one shape.  Every time in it is predicted."""

    gemm: Prediction  #: the product alone, operands already quantised
    #: quantising the activations; ``None`` where they stay in 16 bits, and where no family does it
    quantize: Prediction | None
    baseline: Prediction | None  #: the bf16 product of the same shape; ``None``: no family runs it
    energy: LaunchEnergy  #: of the product
    quantize_energy: LaunchEnergy | None  #: of quantising the activations
    sqnr_normal_db: float  #: of the product, on normal data
    sqnr_outlier_db: float  #: of the product, on data with outlier channels
    layer: str = ""  #: where the shape comes from, when a model was given
    count: int = 1  #: how often the model runs it

    @property
    def problem(self) -> Gemm:
        """The product."""
        assert isinstance(self.gemm.problem, Gemm)
        return self.gemm.problem

    @property
    def speedup_kernel(self) -> float | None:
        """Over bf16, operands already quantised; ``None`` without a baseline."""
        return None if self.baseline is None else self.baseline.time_us / self.gemm.time_us

    @property
    def speedup_with_quantize(self) -> float | None:
        """Over bf16, activations quantised on every call, weights ahead of time.

        ``None`` without a baseline, and where no family quantises what the recipe needs.
        """
        if self.baseline is None:
            return None
        if self.quantize is None:
            recipe = self.problem.recipe
            return None if recipe.quantized or recipe.direct_cast else self.speedup_kernel
        return self.baseline.time_us / (self.gemm.time_us + self.quantize.time_us)

    @property
    def energy_mj(self) -> float:
        """Of the product and what quantises its activations."""
        more = 0.0 if self.quantize_energy is None else self.quantize_energy.energy_mj
        return self.energy.energy_mj + more

    @property
    def time_us(self) -> float:
        """Likewise."""
        return self.gemm.time_us + (0.0 if self.quantize is None else self.quantize.time_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A recipe that no kernel runs on this GPU and shape, and why."""

    problem: Gemm
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionReport:
    """What :func:`predict` answers."""

    gpu: str
    rows: tuple[PredictedRow, ...]
    refused: tuple[RefusedRow, ...]
    calibration: tuple[str, ...] = ()  #: which calibration was used and what of it was not, by line

    def front(self) -> list[bool]:
        """Row by row: whether no other recipe on its shape beats it in time, energy and error.

        Time and energy with quantising, error by the SQNR on normal data.
        """
        by_shape: dict[tuple[object, ...], list[int]] = {}
        for place, row in enumerate(self.rows):
            by_shape.setdefault((*row.problem.shape, row.layer), []).append(place)
        found = [False] * len(self.rows)
        for places in by_shape.values():
            rows = [self.rows[place] for place in places]
            points = [(row.time_us, row.energy_mj, -row.sqnr_normal_db) for row in rows]
            for place, kept in zip(places, pareto(points), strict=True):
                found[place] = kept
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping with a schema version."""
        front = self.front()
        return {
            "schema": SCHEMA,
            "gpu": self.gpu,
            "calibration": list(self.calibration),
            "predicted": [
                _row_dict(row) | {"pareto": kept}
                for row, kept in zip(self.rows, front, strict=True)
            ],
            "refused": [{"problem": str(r.problem), "reason": r.reason} for r in self.refused],
        }


def _row_dict(row: PredictedRow) -> dict[str, Any]:
    gemm = row.gemm
    return {
        "shape": list(row.problem.shape),
        "layer": row.layer,
        "count": row.count,
        "recipe": row.problem.recipe.name,
        "kernel": gemm.kernel,
        "path": gemm.path.value,
        "predicted_time_us": gemm.time_us,
        "predicted_interval_us": [gemm.low_us, gemm.high_us],
        "calibrated": gemm.calibrated,
        "extrapolated": gemm.extrapolated,
        "predicted_quantize_us": None if row.quantize is None else row.quantize.time_us,
        "predicted_tflops": gemm.tflops,
        "predicted_speedup_kernel": row.speedup_kernel,
        "predicted_speedup_with_quantize": row.speedup_with_quantize,
        "predicted_power_w": row.energy.power_w,
        "predicted_energy_mj": row.energy.energy_mj,
        "predicted_sustained_time_us": row.energy.sustained_time_us,
        "predicted_energy_with_quantize_mj": row.energy_mj,
        "binding": gemm.binding,
        "terms_us": dict(gemm.terms_us),
        "dram_read_bytes": round(gemm.dram_read_bytes),
        "dram_write_bytes": round(gemm.dram_write_bytes),
        "l2_read_bytes": round(gemm.l2_read_bytes),
        "sqnr_normal_db": row.sqnr_normal_db,
        "sqnr_outlier_db": row.sqnr_outlier_db,
        "config": gemm.config.to_dict(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    m: int
    n: int
    k: int
    layer: str = ""
    count: int = 1


class Pricer:
    """Prices problems on one GPU; products of the same operands, under whatever recipe, once."""

    def __init__(
        self, gpu: Gpu, families: Sequence[Kernel], calibration: "Calibration | None" = None
    ) -> None:
        self.gpu = gpu
        self.limits = gpu.limits  # made anew at every look: thousands of them in a table
        self.calibration = calibration
        self.families = families
        self.known: dict[Hashable, Prediction | None] = {}

    def best(self, problem: Problem) -> Prediction | str:
        """The fastest predicted configuration over all families, or why there is none."""
        reasons: list[str] = []
        found: list[Prediction] = []
        for family in self.families:
            if reason := family.refusal(problem, self.limits):
                reasons.append(reason)
                continue
            if reason := unpriced(problem, family):
                reasons.append(reason)
                continue
            prediction = self._price(problem, family)
            if prediction is None:
                reasons.append(f"{family.name} has no legal configuration")
                continue
            found.append(prediction)
        if not found:
            return "; ".join(telling(reasons, problem)) or "no kernel family was chosen"
        return replace(min(found, key=lambda prediction: prediction.time_us), problem=problem)

    def _price(self, problem: Problem, family: Kernel) -> Prediction | None:
        """The family's fastest configuration; ``None`` without a legal one."""
        computed: Hashable = _computed(problem, self.gpu)
        if self.calibration is not None and isinstance(problem, Gemm):
            # Rates and intervals were measured element by element.
            one = problem.recipe
            computed = (computed, one.activation.element, one.weight.element)
        key = (family.name, computed)
        if key not in self.known:
            legal = family.legal_space(problem, self.limits).accepted
            pricing = price if self.calibration is None else self.calibration.price
            self.known[key] = (
                pricing(problem, family, legal, self.gpu).best() if len(legal) else None
            )
        return self.known[key]


def _computed(problem: Problem, gpu: Gpu) -> Hashable:
    """What kernels and cost model see of a problem.

    Recipes that differ in training alone have one product; elements of one width, kind and rate,
    as e4m3fn and e5m2 often are, cost the same.
    """
    if not isinstance(problem, Gemm):
        return problem
    one = problem.recipe
    formats = (
        (*_cost_class(fmt.element, gpu), fmt.scaling, fmt.plain)
        for fmt in (one.activation, one.weight)
    )
    same = one.activation.element == one.weight.element
    return (problem.shape, problem.out, *formats, one.outliers, same)


def _cost_class(element: ElementFormat, gpu: Gpu) -> tuple[object, ...]:
    if element.name not in gpu.native_elements:
        return (element,)  # it is refused, or decoded by its own instructions
    return (type(element), element.bits, gpu.tensor_flop_per_clk[element.name])


def _product(one: Recipe) -> tuple[Hashable, ...]:
    return (one.activation, one.weight, one.outliers)


def _shapes(shapes: object, model: object, tokens: object, tp: int) -> list[_Shape]:
    listed = [shapes] if isinstance(shapes, str) else shapes
    if not isinstance(listed, Iterable):
        raise TypeError(f"shapes {shown(shapes)}: give {_SHAPE_RULE}")
    wanted = [_shape(shape) for shape in listed]
    counts = [
        count_of("tokens", value)
        for value in items_of("tokens", tokens, SupportsIndex, "integers, e.g. (16, 512)")
    ]
    tp = count_of("tp", tp)
    if model is None and (counts or tp != 1):
        raise ValueError(
            "--tokens and --tp belong to a model: add --model config.json, or drop them"
        )
    if model is not None:
        path = path_of("model", model)
        if not counts:
            raise ValueError(f"{path}: no number of tokens given: add --tokens T")
        from workbench.models import gemm_shapes  # pydantic: only where a model file is read

        wanted += [
            _Shape(m=s.m, n=s.n, k=s.k, layer=s.layer, count=s.count)
            for s in gemm_shapes(path, counts, tp)
        ]
    if not wanted:
        raise ValueError("no shape given: pass --shape MxNxK or --model config.json --tokens T")
    return wanted


def _shape(shape: object) -> _Shape:
    parts: Any = parse_shape(shape, 3) if isinstance(shape, str) else shape
    extents = tuple(parts) if isinstance(parts, Iterable) else ()
    if len(extents) != 3:
        raise TypeError(f"shape {shown(shape)}: give {_SHAPE_RULE}")
    m, n, k = (count_of(f"shape {shown(shape)}: extent", extent) for extent in extents)
    return _Shape(m=m, n=n, k=k)


def predict(
    *,
    gpu: str | Path | Gpu = "h200",
    shapes: Iterable[tuple[int, int, int] | str] | str = (),
    model: str | Path | None = None,
    tokens: Sequence[int] | int = (),
    tp: int = 1,
    recipes: Sequence[str] | str | None = None,
    families: Sequence[str] | str | None = None,
    out: str = "bf16",
    calibration: str | Path | None = None,
) -> PredictionReport:
    """Predict every recipe on every shape; nothing is measured and no GPU is needed.

    Args:
        gpu: a name of ``workbench gpus``, the path of a GPU file, or a loaded GPU.
        shapes: (M, N, K) or ``"MxNxK"`` each.  One text is one shape, here and below one name.
        model: a Hugging Face ``config.json``; its projections join ``shapes``, for each of
            ``tokens``.
        tokens: numbers of rows M that the model runs with.
        tp: tensor-parallel degree that the model's projections are split by.
        recipes: names; ``None`` asks for all, and those that no kernel runs are among the refused.
        families: kernel families to choose the product's from; ``None`` means all.  Quantising
            is priced over all families either way.
        out: element format of C.
        calibration: the path of a calibration file; ``"none"`` for none; ``None`` for the user's
            own of that GPU, where there is one.
    Raises:
        ValueError: unknown name, impossible shape, or nothing to predict.
        TypeError: an argument of another type.
    """
    target = gpu if isinstance(gpu, Gpu) else load_gpu(str(gpu))
    held = choose_calibration(calibration, target)
    chosen = list(kernels().values())
    if families is not None:
        chosen = [kernel(name) for name in items_of("families", families, str, "names")]
    wanted = list(RECIPES.values())
    if recipes is not None:
        wanted = [recipe(name) for name in items_of("recipes", recipes, str, "names")]
    products = Pricer(target, chosen, held.calibration)
    quantisations = Pricer(target, list(kernels().values()), held.calibration)
    # One recipe stands for all of its product, so that its error is computed once.
    same = {_product(one): one for one in wanted}
    rows: list[PredictedRow] = []
    refused: list[RefusedRow] = []
    for shape in _shapes(shapes, model, tokens, tp):
        plain = Gemm(m=shape.m, n=shape.n, k=shape.k, recipe=recipe(BASELINE), out=out)
        baseline = products.best(replace(plain, out=plain.baseline_out))
        for one in wanted:
            problem = Gemm(m=shape.m, n=shape.n, k=shape.k, recipe=one, out=out)
            gemm = products.best(problem)
            if isinstance(gemm, str):
                refused.append(RefusedRow(problem=problem, reason=gemm))
                continue
            rounding = _quantize(quantisations, problem)
            rows.append(
                PredictedRow(
                    gemm=gemm,
                    quantize=rounding,
                    baseline=None if isinstance(baseline, str) else baseline,
                    energy=launch_energy(gemm, target),
                    quantize_energy=None if rounding is None else launch_energy(rounding, target),
                    sqnr_normal_db=matmul_error(same[_product(one)], "normal").sqnr_db,
                    sqnr_outlier_db=matmul_error(same[_product(one)], "outlier").sqnr_db,
                    layer=shape.layer,
                    count=shape.count,
                )
            )
    return PredictionReport(
        gpu=target.name, rows=tuple(rows), refused=tuple(refused), calibration=held.lines
    )


def _quantize(pricer: Pricer, problem: Gemm) -> Prediction | None:
    """Quantising a product's activations; ``None`` where nothing is quantised or no family can.

    None can where outliers are set apart: finding and storing them has no kernel.
    """
    if not problem.recipe.quantized or problem.recipe.outliers is not None:
        return None
    found = pricer.best(
        Quantize(rows=problem.m, cols=problem.k, target=problem.recipe.activation, source="bf16")
    )
    return None if isinstance(found, str) else found
