"""What is predicted of recipes on shapes, row by row, and what was refused."""

from dataclasses import dataclass
from typing import Any

from sim import Prediction
from sim.energy import LaunchEnergy
from tiles.problems import Gemm
from workbench.pareto import pareto

__all__ = ["PredictedRow", "PredictionReport", "RefusedRow"]

SCHEMA = "tile-workbench/predict/1"


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
