"""What ``workbench predict`` prints."""

from collections.abc import Iterable, Iterator, Mapping

from workbench.prediction_report import PredictedRow, PredictionReport
from workbench.text_table import Column, TextTable

__all__ = ["bytes_text", "energy_tables", "extrapolated_lines", "prediction_tables"]

#: Fields of configurations by the letter that stands for them in a table.
_LETTERS = {
    "cluster": "c",
    "group_m": "g",
    "num_warps": "w",
    "num_stages": "s",
    "stages": "s",
    "store_buffers": "b",
}


def bytes_text(count: float) -> str:
    """A byte count in binary units with three significant digits, four of GiB and from 1000 on."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if count < 1023.5:
            break
        count, unit = count / 1024, larger
    if count >= 999.5:
        return f"{count:.0f} {unit}"
    return f"{count:.4g} {unit}" if unit == "GiB" else f"{count:.3g} {unit}"


def _ratio(value: float | None) -> str:
    """A speed-up, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.2f}"


def prediction_tables(report: PredictionReport) -> Iterator[TextTable]:
    """One table a shape; every time in it is predicted."""
    by_shape: dict[tuple[int, int, int], list[PredictedRow]] = {}
    for row in report.rows:
        by_shape.setdefault(row.problem.shape, []).append(row)
    for (m, n, k), rows in by_shape.items():
        first = rows[0]
        layer = f"  {first.layer} (x{first.count})" if first.layer else ""
        columns = zip(_COLUMNS, zip(*map(_predicted_cells, rows), strict=True), strict=True)
        yield TextTable(
            title=f"{report.gpu}  M={m} N={n} K={k}{layer}  predicted, not measured",
            columns=[
                Column(header=header, cells=cells, right=right, no_wrap=no_wrap)
                for (header, right, no_wrap), cells in columns
            ],
        )


def energy_tables(report: PredictionReport) -> Iterator[TextTable]:
    """One table a shape: time, energy and error, and who is beaten in all three by nobody."""
    by_shape: dict[tuple[int, int, int], list[tuple[PredictedRow, bool]]] = {}
    for row, kept in zip(report.rows, report.front(), strict=True):
        by_shape.setdefault(row.problem.shape, []).append((row, kept))
    for (m, n, k), pairs in by_shape.items():
        plain = next((row for row, _ in pairs if row.problem.recipe.name == "bf16"), None)
        cells = [
            (
                row.problem.recipe.name,
                f"{row.time_us:.1f}",
                f"{row.energy.power_w:.0f}",
                f"{row.energy_mj:.1f}",
                "-" if plain is None else f"{plain.energy_mj / row.energy_mj:.2f}",
                f"{row.sqnr_normal_db:.1f}",
                "yes" if kept else "",
            )
            for row, kept in pairs
        ]
        yield TextTable(
            title=f"{report.gpu}  M={m} N={n} K={k}  with quantising, predicted, not measured",
            columns=[
                Column(header=header, cells=column, right=right, no_wrap=True)
                for (header, right), column in zip(
                    _ENERGY_COLUMNS, zip(*cells, strict=True), strict=True
                )
            ],
        )


def extrapolated_lines(report: PredictionReport) -> Iterable[str]:
    """What lies beyond the measurements that the calibration rests on, a line a reason."""
    reasons: dict[str, list[str]] = {}
    for row in report.rows:
        if row.gemm.extrapolated:
            name = f"{row.problem.recipe.name} ({row.gemm.kernel})"
            reasons.setdefault(row.gemm.extrapolated, []).append(name)
    for reason, names in reasons.items():
        yield f"extrapolated, wider interval: {reason}: {', '.join(dict.fromkeys(names))}"


#: Heading, whether it stands at the right, and whether it stays on one line.
_COLUMNS = (
    ("recipe", False, True),
    ("path", False, False),
    ("time us", True, True),
    ("90 % interval", True, True),
    ("TFLOP/s", True, True),
    ("x bf16\nkernel", True, False),
    ("x bf16\nwith quantize", True, False),
    ("limit", False, False),
    ("DRAM bytes", True, True),
    ("SQNR dB\nnormal", True, False),
    ("SQNR dB\noutliers", True, False),
    ("best configuration", False, False),
)


_ENERGY_COLUMNS = (
    ("recipe", False),
    ("time us", True),
    ("product W", True),
    ("mJ", True),
    ("less than bf16, x", True),
    ("SQNR dB", True),
    ("Pareto", False),
)


def _predicted_cells(row: PredictedRow) -> tuple[str, ...]:
    gemm = row.gemm
    return (
        row.problem.recipe.name,
        gemm.path.value,
        f"{gemm.time_us:.1f}",
        f"{gemm.low_us:.1f}-{gemm.high_us:.1f}",
        f"{gemm.tflops:.0f}",
        _ratio(row.speedup_kernel),
        _ratio(row.speedup_with_quantize),
        gemm.binding,
        bytes_text(gemm.dram_read_bytes + gemm.dram_write_bytes),
        f"{row.sqnr_normal_db:.1f}",
        f"{row.sqnr_outlier_db:.1f}",
        _short_config(gemm.kernel, gemm.config.to_dict()),
    )


def _short_config(kernel: str, config: Mapping[str, int | bool]) -> str:
    """``triton 128x256x64 g8 w8 s4 tma persistent``: family, and the usual way to write a tile."""
    blocks = [str(config[name]) for name in ("block_m", "block_n", "block_k") if name in config]
    counts = [f"{letter}{config[name]}" for name, letter in _LETTERS.items() if name in config]
    flags = [name for name, value in config.items() if value is True]
    return " ".join([kernel.removesuffix("_gemm"), "x".join(blocks), *counts, *flags])
