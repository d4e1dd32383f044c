"""Where this user's calibrations are kept, and which of them a prediction takes."""

import os
from dataclasses import dataclass
from pathlib import Path

from sim.calibration.record import Calibration
from sim.gpu import Gpu
from tiles.home_folder import home_folder

__all__ = ["NO_CALIBRATION", "Chosen", "calibration_path", "choose_calibration"]

#: What stands for a path where no calibration is wanted.
NO_CALIBRATION = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The calibration that holds, and what is to be said about the choice."""

    calibration: Calibration | None
    lines: tuple[str, ...]  #: for whoever reads the predictions; empty without a calibration


def calibration_path(gpu: str) -> Path:
    """``$XDG_DATA_HOME/tile-workbench/calibrations/GPU.json``; it may not exist.

    Source: XDG base directory specification 0.8; a relative path in the variable is ignored.
    """
    named = os.environ.get("XDG_DATA_HOME", "")
    base = Path(named) if os.path.isabs(named) else home_folder() / ".local" / "share"
    return base / "tile-workbench" / "calibrations" / f"{gpu}.json"


def choose_calibration(asked: str | Path | None, gpu: Gpu) -> Chosen:
    """The calibration to predict that GPU with.

    Args:
        asked: a file's path; ``"none"`` for none; ``None`` for the user's own, if there is one
            and it fits.

    Raises:
        ValueError: the file that was asked for cannot be used.
    """
    if asked == NO_CALIBRATION:
        return Chosen(calibration=None, lines=())
    if asked is None and not calibration_path(gpu.name).exists():
        return Chosen(calibration=None, lines=())
    from sim.calibration.file import parse_calibration  # milliseconds that most predictions spare

    if asked == "":
        raise ValueError("calibration '': name a file, or none")
    if asked is not None:
        return _with_lines(parse_calibration(Path(asked), gpu))
    try:
        own = calibration_path(gpu.name)
        return _with_lines(parse_calibration(own, gpu, rehearsal=False))
    except ValueError as error:
        return Chosen(calibration=None, lines=(f"not calibrated: {error}",))


def _with_lines(calibration: Calibration) -> Chosen:
    lines = (f"calibration: {calibration.title}", *calibration.notes)
    return Chosen(calibration=calibration, lines=lines)
