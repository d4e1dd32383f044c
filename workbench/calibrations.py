"""``calibrate``: teaches the cost model the GPU at hand."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import gpu_names, load_gpu
from sim.calibration.folder import calibration_path
from workbench.arguments import count_of, path_of
from workbench.outfile import check_outfile, write_outfile

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import Run
    from tuning.calibration.run import Calibrated

__all__ = ["SCHEMA", "calibrate", "calibration_dict", "calibration_lines"]

SCHEMA = "tile-workbench/calibrate/1"
TIME_LIMIT = "8m"
TIMINGS = 96


def calibrate(
    *,
    gpu: str | Path | None = None,
    folder: str | Path | None = None,
    output: str | Path | None = None,
    timings: int = TIMINGS,
    time_limit: str = TIME_LIMIT,
    seed: int = 0,
    simulate: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> tuple["Calibrated", Path]:
    """Microbenchmarks and timings of the GPU at hand, fitted and written to a calibration file.

    Args:
        gpu: a name of ``workbench gpus`` or the path of a GPU file; by default the known GPU that
            is here, and simulated ``h200``.
        folder: keeps what was measured, so that the same call goes on; by default
            ``runs/calibrate-GPU``.
        output: the file; by default this user's own of the GPU, which ``predict`` and ``sweep``
            take by themselves.  A simulated one has to be named, or lies in the folder.
        timings: of kernels.
        time_limit: of everything, e.g. ``8m``.
        simulate: a machine of known constants stands in for a GPU: the numbers mean nothing.
        progress: called after each step.

    Returns:
        What it came to, and the path of the file.

    Raises:
        ValueError: there is no GPU, another one, or an argument is out of range.
        TypeError: an argument of another type.
    """
    from sim.calibration.file import SCHEMA as FILE_SCHEMA
    from workbench.time_limit import parse_time_limit

    known = _gpu(gpu, simulate)
    seconds = parse_time_limit(time_limit)
    mode = "simulate" if simulate else "calibrate"
    where = Path(f"runs/{mode}-{known.name}") if folder is None else path_of("folder", folder)
    if output is not None:
        target = path_of("output", output)
    else:
        target = where / "calibration.json" if simulate else calibration_path(known.name)
    check_outfile(target, FILE_SCHEMA)
    from tuning.calibration.run import calibrate as run
    from tuning.calibration.run import check_calibration_folder

    check_calibration_folder(where, (target.name,))

    done = run(
        known,
        where,
        simulate=simulate,
        timings=count_of("timings", timings),
        seed=count_of("seed", seed),
        time_limit_s=seconds,
        progress=progress or (lambda _: None),
    )
    write_outfile(target, done.text)
    return done, target


def calibration_lines(run: "Run") -> tuple[str, ...]:
    """Which calibration a sweep's predictions rest on; why the user's own did not fit."""
    from sim.calibration.folder import choose_calibration
    from tuning.stored_plan import CALIBRATION_FILE

    kept = run.folder / CALIBRATION_FILE
    if kept.exists():
        return choose_calibration(kept, run.gpu).lines
    chosen = choose_calibration(None, run.gpu)
    # One that fits now was made after the sweep had begun.
    return chosen.lines if chosen.calibration is None else ()


def _gpu(asked: str | Path | None, simulate: bool) -> "Gpu":
    """The GPU to calibrate; it has to be here unless the machine is simulated."""
    from tuning.visible_gpu import visible_gpu

    if simulate:
        return load_gpu("h200" if asked is None else asked)
    here = visible_gpu()
    if here is None:
        raise ValueError(
            "calibrate measures the GPU itself and none is visible here: run it on a host with "
            "an NVIDIA GPU, or try it on a simulated one, --simulate"
        )
    if asked is not None:
        gpu = load_gpu(asked)
        if not gpu.matches(here):
            raise ValueError(
                f"the device is {here!r}, not a {gpu.name}: leave --gpu out, or give a GPU file "
                "that matches it"
            )
        return gpu
    found = [gpu for gpu in map(load_gpu, gpu_names()) if gpu.matches(here)]
    if not found:
        raise ValueError(
            f"no GPU file is known for {here!r}: write one like sim/gpus/h200.yaml and give it, "
            "--gpu FILE.yaml"
        )
    return found[0]


def calibration_dict(done: "Calibrated", path: Path) -> dict[str, Any]:
    """JSON-ready summary of a calibration."""
    families = done.learned.calibration.families
    return {
        "schema": SCHEMA,
        "file": str(path),
        "title": done.learned.calibration.title,
        "seconds": round(done.seconds, 1),
        "timings": {"planned": done.planned, "measured": done.measured, "failed": done.failed},
        "left_out": list(done.left_out),
        "microbenchmarks": [
            {
                "name": one.name,
                "status": one.status.value,
                "reason": one.reason,
                "figures": [figure.to_dict() for figure in one.figures],
            }
            for one in done.outcomes
        ],
        "families": {
            name: {
                "timings": one.rows,
                "shapes": one.shapes,
                "error_before": one.prior_error,
                "error_fitted": one.physics_error,
                "error_with_residual": one.residual_error,
                "residual_used": one.residual is not None,
            }
            for name, one in families.items()
        },
    }
