"""The names that a run folder keeps its record under."""

from pathlib import Path

from tuning.journal_file import JOURNAL
from tuning.leases import SUFFIX
from tuning.rejections import REJECTIONS
from tuning.stored_plan import CALIBRATION_FILE, GPU_FILE, PLAN_FILE

__all__ = ["PROMOTION_FILE", "is_run_file"]

#: What a promotion asked and, once it is finished, what it decided.
PROMOTION_FILE = "promotion.json"

#: What the names of the record begin with; ``.gz``, ``.torn`` and ``.tmp`` follow some of them.
_BEGINNINGS = (
    *(PLAN_FILE, GPU_FILE, CALIBRATION_FILE),
    *(JOURNAL, REJECTIONS, PROMOTION_FILE),
)


def is_run_file(path: Path) -> bool:
    """Whether a path is, or may become, a file of a run folder's own, missing ones included."""
    if not (path.parent / PLAN_FILE).exists():
        return False
    return path.name.startswith(_BEGINNINGS) or SUFFIX in path.suffixes
