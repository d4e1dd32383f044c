"""The record of a comparison, and its table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.train_gpt.outcome import Outcome, Status
from bench.train_gpt.paired import CRITERION, Comparison, Verdict, compare
from bench.train_gpt.settings import BASELINE, Settings
from workbench.outfile import write_outfile

__all__ = ["SCHEMA", "Record", "line_of"]

SCHEMA = "tile-workbench/train-gpt/1"
#: MXFP6's source compares it with training in fp32.
BASELINES = (BASELINE, "fp32")


@dataclass(slots=True)
class Record:
    """Written anew after every run."""

    path: Path
    settings: Settings
    bigram: float  #: loss of the held-out windows
    sessions: list[dict[str, Any]]
    outcomes: list[Outcome]

    def keep(self, outcome: Outcome) -> None:
        """Take an outcome in place of an earlier one of its run, and write the file."""
        places = [number for number, one in enumerate(self.outcomes) if one.run == outcome.run]
        if places:
            self.outcomes[places[0]] = outcome
        else:
            self.outcomes.append(outcome)
        self.write()

    def comparisons(self) -> list[Comparison]:
        """Every recipe against each baseline that was asked for."""
        names = list(dict.fromkeys(one.recipe for one in self.outcomes))
        return [
            compare(self.outcomes, name, baseline)
            for baseline in BASELINES
            if baseline in names
            for name in names
            if name != baseline
        ]

    def write(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            ValueError: it cannot be written.
        """
        content = {
            "schema": SCHEMA,
            "criterion": CRITERION,
            "settings": self.settings.to_dict(),
            "parameters": self.settings.size.parameters,
            "tokens": "bytes",
            "trained_tokens": self.settings.steps
            * self.settings.size.batch
            * self.settings.size.tokens,
            "bigram_loss": self.bigram,
            "sessions": self.sessions,
            "comparisons": [one.to_dict() for one in self.comparisons()],
            "runs": [one.to_dict() for one in self.outcomes],
        }
        write_outfile(self.path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def table(self) -> str:
        """Markdown: held-out losses and differences, with what diverged or is unfinished."""
        compared = {(one.recipe, one.baseline): one for one in self.comparisons()}
        names = list(dict.fromkeys(one.recipe for one in self.outcomes))
        lines = [
            "| recipe | runs | held-out loss | to bf16 | 95 % interval | verdict | to fp32 |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in names:
            runs = [one for one in self.outcomes if one.recipe == name]
            one = compared.get((name, BASELINE))
            cells = [
                name,
                _runs(runs),
                _loss(runs),
                _difference(one),
                _interval(one),
                _verdict(one),
                _difference(compared.get((name, "fp32"))),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append(f"\nA bigram model of the same text: {self.bigram:.4f} nats a token.")
        return "\n".join(lines)


def _runs(runs: Sequence[Outcome]) -> str:
    counts = {status: sum(one.status is status for one in runs) for status in Status}
    return ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)


def _loss(runs: Sequence[Outcome]) -> str:
    losses = [one.loss for one in runs if one.loss is not None]
    return f"{sum(losses) / len(losses):.4f}" if losses else ""


def _difference(one: Comparison | None) -> str:
    if one is None or one.mean is None:
        return ""
    error = "" if one.standard_error is None else f" ± {100 * one.standard_error:.2f}"
    return f"{100 * one.mean:+.2f}{error} %"


def _interval(one: Comparison | None) -> str:
    if one is None or one.interval is None:
        return ""
    low, high = one.interval
    return f"{100 * low:+.2f} to {100 * high:+.2f} %"


def _verdict(one: Comparison | None) -> str:
    if one is None:
        return ""
    wanted = f"{100 * CRITERION:g} %"
    words = {Verdict.WITHIN: f"within {wanted}", Verdict.OUTSIDE: f"outside {wanted}"}
    return words.get(one.verdict, one.verdict.value)


def line_of(outcome: Outcome, where: str) -> str:
    """One line about a run that ended."""
    head = f"{outcome.run}{where}: {outcome.status.value}"
    if outcome.loss is None:
        return f"{head}: {outcome.reason}"
    pace = "" if outcome.steps_per_s is None else f", {outcome.steps_per_s:.1f} steps/s"
    return f"{head}, {outcome.steps} steps, held-out loss {outcome.loss:.4f}{pace}"
