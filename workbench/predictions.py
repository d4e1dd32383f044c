"""Which format pays on a shape: predicted time, speed-up and quantisation error per recipe."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

from sim import Gpu, Prediction, load_gpu, matmul_error
from sim.calibration.folder import choose_calibration
from sim.energy import launch_energy
from tiles.intake import shown
from tiles.kernels import kernel, kernels
from tiles.problems import Gemm, Quantize, parse_shape
from tiles.recipes import RECIPES, Recipe, recipe
from workbench.arguments import count_of, items_of, path_of
from workbench.prediction_report import PredictedRow, PredictionReport, RefusedRow
from workbench.pricer import Pricer

__all__ = ["predict"]

BASELINE = "bf16"
_SHAPE_RULE = "(M, N, K) or 'MxNxK' for each shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    m: int
    n: int
    k: int
    layer: str = ""
    count: int = 1


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
