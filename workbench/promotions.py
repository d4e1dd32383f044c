"""New entries promoted over old ones where they are right and faster beyond noise."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.arguments import path_of
from workbench.outfile import check_name
from workbench.promotion_sources import contests_of, open_source

if TYPE_CHECKING:
    from tuning import Progress
    from tuning.candidates import Pricing
    from tuning.promotion.contest import Side, Verdict
    from tuning.records import Run

__all__ = ["SCHEMA", "Promotion", "promote", "refuse_unfinished"]

SCHEMA = "tile-workbench/promotion/1"
FILE = "promotion.json"
RULE = (
    "promoted: right, faster by min_gain between medians of samples taken in turns, and its upper "
    "quartile below the old entry's lower quartile"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What a promotion decided."""

    new: str
    over: str
    min_gain: float
    simulated: bool
    verdicts: "tuple[Verdict, ...]"
    run: "Run"  #: the winners; emission takes its folder

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        places = [one.environment for one in self.run.studies if one.environment is not None]
        return {
            "schema": SCHEMA,
            "finished": True,
            "new": self.new,
            "over": self.over,
            "folder": str(self.run.folder),
            "gpu": self.run.gpu.name,
            "min_gain": self.min_gain,
            "rule": RULE,
            "simulated": self.simulated,
            "environment": places[0].to_dict() if places else None,
            "entries": [self._entry(one) for one in self.verdicts],
        }

    def _entry(self, verdict: "Verdict") -> dict[str, Any]:
        def side(one: "Side | None") -> dict[str, Any] | None:
            if one is None:
                return None
            times = {
                "time_us": one.time_us,
                "iqr_us": one.iqr_us,
                "samples_us": list(one.samples_us),
                "timing": one.timing,
            }
            held = times if one.right else None
            return {
                "kernel": one.contender.kernel,
                "config": one.contender.config.to_dict(),
                "right": one.right,
                "reason": one.reason,
                "measured_before_us": one.contender.before_us,
                # A measured and a simulated time never share a key.
                "measured": None if self.simulated else held,
                "simulation": held if self.simulated else None,
            }

        winner = verdict.winner
        return {
            "problem": str(verdict.problem),
            "status": verdict.status.value,
            "reason": verdict.reason,
            "holds": None if winner is None else "old" if winner is verdict.old else "new",
            "simulated_gain" if self.simulated else "measured_gain": verdict.gain,
            "old": side(verdict.old),
            "new": side(verdict.new),
        }


def promote(
    new: str | Path,
    over: str | Path,
    output: str | Path,
    *,
    min_gain: float | str = 0.03,
    on: str = "gpu",
    common: bool = False,
    progress: "Callable[[Progress], None] | None" = None,
    price: "Pricing | None" = None,
) -> Promotion:
    """Measure new entries and those that they would replace again, in turns, and keep the better.

    Args:
        new, over: run folders, or packages that emit wrote.  Of a new run everything within 3 %
            of its fastest competes.
        output: run folder to create, or to go on with; emission takes it, and it holds the report,
            ``promotion.json``.
        min_gain: what a new entry must be faster by: 0.03 or ``"3%"``.
        on: ``"gpu"``, or ``"sim"`` for the cost model in the place of measurements, which every
            table and file says.
        common: also where one of both lacks a problem: old entries without a rival are kept, new
            ones that replace nothing are taken in where they are right.
        progress: told of every measurement.
        price: the cost model, where it is another.
    Raises:
        ValueError: neither runs nor packages, other GPUs or problems, no GPU, or the output holds
            something else.
    """
    from tuning.promotion.run import plan_of
    from tuning.promotion.run import promote as run_contests
    from tuning.store import replace_file

    gain = _gain(min_gain)
    if on not in ("gpu", "sim"):
        raise ValueError(f"on {on!r}: choose gpu or sim")
    folder = path_of("output", output)
    check_name(folder)
    sources = path_of("new", new), path_of("over", over)
    for one in sources:
        refuse_unfinished(one)  # what lost there is not known yet
    first, second = map(open_source, sources)
    contests = contests_of(first, second, common=common)
    asked = {
        "schema": SCHEMA,
        "finished": False,
        "new": str(new),
        "over": str(over),
        "min_gain": gain,
        "contests": [one.to_dict() for one in contests],
    }
    _check_folder(folder, asked)
    plan = plan_of(
        contests,
        second.gpu,
        folder,
        simulate=on == "sim",
        cache=first.cache or second.cache or "cold",
        seed=first.seed,
    )
    path = folder / FILE

    def begin() -> None:
        replace_file(path, (json.dumps(asked, indent=1, allow_nan=False) + "\n").encode())

    done = run_contests(
        plan, contests, gain, progress or (lambda _: None), begin=begin, price=price
    )
    found = Promotion(
        new=str(new),
        over=str(over),
        min_gain=gain,
        simulated=plan.simulate,
        verdicts=done.verdicts,
        run=done.run,
    )
    content = found.to_dict() | {"contests": asked["contests"]}
    replace_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return found


def _gain(value: float | str) -> float:
    text = str(value).strip()
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = math.nan
    if not 0 <= found < 1:
        raise ValueError(f"min_gain {value!r}: a share below 1, write 3% or 0.03")
    return found


def _check_folder(folder: Path, asked: Mapping[str, Any]) -> None:
    """Accept a new folder, or one of the same contests."""
    if not (folder / "plan.json").exists():
        return
    stored = _stored(folder)
    if stored is None:
        raise ValueError(f"{folder} holds a sweep and no promotion: choose another output")
    for key in ("contests", "min_gain"):
        if stored.get(key) != asked[key]:
            raise ValueError(
                f"{folder} holds another promotion ({key} differ): choose another output"
            )


def _stored(folder: Path) -> dict[str, Any] | None:
    path = folder / FILE
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read: {error.strerror}: check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cut off or corrupt ({error}): choose another output") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path} does not carry the schema {SCHEMA!r}: choose another output")
    return found


def refuse_unfinished(folder: Path) -> None:
    """Raises ValueError for a run folder whose promotion has not decided everything yet."""
    stored = _stored(folder)
    if stored is not None and not stored.get("finished"):
        raise ValueError(
            f"{folder}: its promotion is not finished: `workbench promote {stored.get('new')} "
            f"--over {stored.get('over')} --output {folder}` goes on"
        )
