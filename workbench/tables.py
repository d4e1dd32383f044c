"""What the command line prints: tables of predictions, GPUs, formats and checks."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table

from sim import Gpu
from tiles.formats import ELEMENTS, FloatElement
from tiles.recipes import RECIPES
from workbench.predictions import PredictionReport

if TYPE_CHECKING:
    from tuning import Run

__all__ = [
    "element_table",
    "gpu_table",
    "prediction_tables",
    "recipe_table",
    "winner_table",
]


def _bytes(count: float) -> str:
    """A byte count in binary units with three significant digits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _ratio(value: float | None) -> str:
    """A speed-up, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.2f}"


def prediction_tables(report: PredictionReport) -> Iterable[Table]:
    """One table a shape; every time in it is predicted."""
    by_shape: dict[tuple[int, int, int], list[int]] = {}
    for index, row in enumerate(report.rows):
        by_shape.setdefault(row.problem.shape, []).append(index)
    for (m, n, k), indices in by_shape.items():
        first = report.rows[indices[0]]
        layer = f"  {first.layer} (x{first.count})" if first.layer else ""
        table = Table(
            title=f"{report.gpu}  M={m} N={n} K={k}{layer}  predicted, not measured",
            title_justify="left",
        )
        table.add_column("recipe", no_wrap=True)
        table.add_column("path")
        for name in ("time us", "90 % interval", "TFLOP/s"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("x bf16\nkernel", justify="right")
        table.add_column("x bf16\nwith quantize", justify="right")
        table.add_column("limit")
        table.add_column("DRAM bytes", justify="right", no_wrap=True)
        table.add_column("SQNR dB\nnormal", justify="right")
        table.add_column("SQNR dB\noutliers", justify="right")
        table.add_column("best configuration", overflow="fold")
        for index in indices:
            row = report.rows[index]
            gemm = row.gemm
            table.add_row(
                row.problem.recipe.name,
                gemm.path.value,
                f"{gemm.time_us:.1f}",
                f"{gemm.low_us:.1f}-{gemm.high_us:.1f}",
                f"{gemm.tflops:.0f}",
                _ratio(row.speedup_kernel),
                _ratio(row.speedup_with_quantize),
                gemm.binding,
                _bytes(gemm.dram_read_bytes + gemm.dram_write_bytes),
                f"{row.sqnr_normal_db:.1f}",
                f"{row.sqnr_outlier_db:.1f}",
                _short_config(gemm.config.to_dict()),
            )
        yield table


def _short_config(config: dict[str, int | bool]) -> str:
    """``128x256x64 g8 w8 s4 tma persistent``: the usual way to write a tile."""
    blocks = "x".join(str(config[name]) for name in ("block_m", "block_n", "block_k"))
    flags = [name for name in ("tma", "persistent") if config[name]]
    numbers = f"g{config['group_m']} w{config['num_warps']} s{config['num_stages']}"
    return " ".join([blocks, numbers, *flags])


def gpu_table(gpus: Iterable[Gpu]) -> Table:
    """The GPUs that ``--gpu`` knows by name."""
    table = Table(title="GPUs (--gpu NAME, or the path of a GPU file)", title_justify="left")
    for name in ("name", "vendor", "capability", "multiprocessors", "L2", "native elements"):
        table.add_column(name)
    for gpu in gpus:
        limits = gpu.limits
        table.add_row(
            gpu.name,
            limits.vendor,
            str(limits.capability),
            str(gpu.sm_count),
            _bytes(gpu.l2_bytes),
            " ".join(sorted(limits.native_elements)),
        )
    return table


def element_table() -> Table:
    """Element formats with what follows from their fields."""
    table = Table(title="Element formats", title_justify="left")
    for name in ("name", "bits", "exponent", "mantissa", "bias", "max", "smallest", "epsilon"):
        table.add_column(name, justify="left" if name == "name" else "right")
    for fmt in ELEMENTS.values():
        if isinstance(fmt, FloatElement):
            fields = (fmt.exponent_bits, fmt.mantissa_bits, fmt.bias, fmt.max, fmt.min_subnormal)
            shown = [f"{value:g}" for value in (*fields, fmt.epsilon)]
        else:
            shown = ["-", "-", "-", f"{fmt.max:g}", "1", "1"]
        table.add_row(fmt.name, str(fmt.bits), *shown)
    return table


def recipe_table() -> Table:
    """Recipes with the tensor formats that they give to activations and weights."""
    table = Table(title="Recipes (--recipe NAME)", title_justify="left")
    for name in ("name", "activations", "weights", "source"):
        table.add_column(name)
    for one in RECIPES.values():
        table.add_row(one.name, str(one.activation), str(one.weight), one.source)
    return table


def winner_table(run: "Run") -> Table:
    """The fastest correct configuration of every study; predicted and measured stand apart."""
    simulated = any(study.simulated for study in run.studies)
    title = f"{run.folder}  " + (
        "SIMULATED: times are the cost model's" if simulated else "measured"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("problem", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column("simulated us" if simulated else "measured us", justify="right")
    table.add_column("predicted us", justify="right")
    table.add_column("trials", justify="right")
    table.add_column("legal", justify="right")
    table.add_column("configuration", overflow="fold")
    for study in run.studies:
        best = study.best
        if best is None or best.measurement.time_us is None:
            shown = ["-", "-", str(len(study.trials)), str(study.legal_size), study.stopped]
        else:
            shown = [
                f"{best.measurement.time_us:.1f}",
                f"{best.predicted_us:.1f}",
                str(len(study.trials)),
                str(study.legal_size),
                str(best.config),
            ]
        table.add_row(str(study.problem), study.kernel, *shown)
    return table
