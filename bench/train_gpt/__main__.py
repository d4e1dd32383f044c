"""Train a GPT under several recipes from the same weights on the same batches.

    python -m bench.train_gpt --gpus 2 --time-limit 8m --commit HASH --output FILE.json
    python -m bench.train_gpt --smoke --output build/train-gpt/smoke.json   # a CPU, seconds

Tokens are bytes of text that installed packages carry (``bench/train_gpt/text.py``).  Out of time
or killed, the same command goes on; ``--dry-run`` tells what it would train on.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.command_line import recorded
from bench.train_gpt.batches import held_out_windows
from bench.train_gpt.bigram import bigram_loss
from bench.train_gpt.folder import RunFolder
from bench.train_gpt.outcome import Outcome, Run
from bench.train_gpt.pool import GRACE_S, Place, run_all
from bench.train_gpt.record import SCHEMA, Record, line_of
from bench.train_gpt.settings import FULL, RECIPES, SMOKE, SMOKE_RECIPES, Settings
from bench.train_gpt.text import Text, gather, package_folders
from workbench.outfile import check_outfile
from workbench.time_limit import parse_time_limit

__all__ = ["main"]

#: Kept back of the time limit for checkpoints and the record.
RESERVE_S = GRACE_S + 5.0
MEGABYTE = 10**6
#: Of a smoke test's text: it is there to run, not to learn from.
SMOKE_BYTES = 300_000


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.train_gpt", description=__doc__.split("\n")[0])
    parser.add_argument("--state", type=Path, help="folder of the runs; build/train-gpt/state")
    parser.add_argument("--output", type=Path, help="the record, JSON")
    parser.add_argument("--recipes", help="comma-separated")
    parser.add_argument("--seeds", type=int, help="how many, from 0 on; 3")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cuda")
    parser.add_argument("--gpus", type=int, default=1, help="of this host")
    parser.add_argument("--processes", type=int, help="at once on each GPU, or on the CPU")
    parser.add_argument("--time-limit", default="8m")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    for name in ("steps", "layers", "width", "heads", "tokens", "batch"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--text", type=Path, action="append", help="a folder; installed packages")
    parser.add_argument("--most-megabytes", type=float, help="of text; 40")
    parser.add_argument("--least-megabytes", type=float, help="of text; 20")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, seconds on a CPU")
    parser.add_argument("--dry-run", action="store_true", help="read the text, train nothing")
    arguments = parser.parse_args(given)
    smoke = arguments.smoke
    defaults = {
        "state": Path("build/train-gpt/smoke" if smoke else "build/train-gpt/state"),
        "recipes": ",".join(SMOKE_RECIPES if smoke else RECIPES),
        "seeds": 1 if smoke else 3,
        "device": "cpu" if smoke else "cuda",
        "most_megabytes": SMOKE_BYTES / MEGABYTE if smoke else 40.0,
        "least_megabytes": SMOKE_BYTES / MEGABYTE / 2 if smoke else 20.0,
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.processes is None:
        arguments.processes = 18 if arguments.device == "cuda" else 1
    for name in ("gpus", "processes", "seeds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: at least 1")
    if not 0 < arguments.least_megabytes <= arguments.most_megabytes:
        parser.error(
            f"--least-megabytes {arguments.least_megabytes:g}: above 0 and at most "
            f"--most-megabytes {arguments.most_megabytes:g}"
        )
    if arguments.rate is not None and not 0 < arguments.rate < 1:
        parser.error(f"--rate {arguments.rate:g}: above 0 and below 1")
    if arguments.output is None and not arguments.dry_run:
        parser.error("--output FILE.json is missing: name the record, or give --dry-run")
    return arguments


def _settings(arguments: argparse.Namespace) -> Settings:
    base = SMOKE if arguments.smoke else FULL
    names = ("layers", "width", "heads", "tokens", "batch")
    sizes = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    rest = {
        name: getattr(arguments, name) for name in ("steps", "rate") if getattr(arguments, name)
    }
    return replace(base, size=replace(base.size, **sizes), **rest)


def _recipes(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in RECIPES]:
        raise ValueError(f"--recipes {unknown[0]}: choose among {', '.join(RECIPES)}")
    return names


def _places(arguments: argparse.Namespace) -> list[Place]:
    if arguments.device == "cpu":
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        return [Place(name="cpu", device="cpu", environment=hidden, processes=arguments.processes)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(one) for one in range(arguments.gpus)]
    if len(devices) < arguments.gpus:
        raise ValueError(
            f"--gpus {arguments.gpus}: CUDA_VISIBLE_DEVICES names {len(devices)}: ask for fewer"
        )
    return [
        Place(
            name=f"GPU {device}",
            device="cuda",
            environment={"CUDA_VISIBLE_DEVICES": device},
            processes=arguments.processes,
        )
        for device in devices[: arguments.gpus]
    ]


def _told(settings: Settings, text: Text, bigram: float, runs: int) -> str:
    card, size = text.card, settings.size
    kinds = ", ".join(f"{count / 1e6:.2f} MB {kind}" for kind, count in card.bytes_of.items())
    return (
        f"text: {(card.train_bytes + card.held_out_bytes) / 1e6:.2f} MB ({kinds}), "
        f"{card.train_files} files to train on, {card.held_out_files} held out, "
        f"SHA-256 {card.digest[:16]}\n"
        f"a bigram model: {bigram:.4f} nats a token (a byte)\n"
        f"model: {size.parameters:,} parameters, {settings.steps} steps of "
        f"{size.batch * size.tokens} tokens; {runs} runs"
    )


def _train(
    arguments: argparse.Namespace, settings: Settings, text: Text, recipes: list[str], command: str
) -> int:
    begin = time.time()
    limit_s = parse_time_limit(arguments.time_limit)
    if not limit_s > 2 * RESERVE_S:
        raise ValueError(
            f"--time-limit {arguments.time_limit}: starting and writing take "
            f"{2 * RESERVE_S:g} s: give more"
        )
    places = _places(arguments)
    folder = RunFolder(arguments.state)
    folder.open(settings, text)
    runs = [Run(recipe=name, seed=seed) for seed in range(arguments.seeds) for name in recipes]
    known = folder.outcomes()
    session = {
        "command": command,
        "commit": arguments.commit,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin)),
        "places": [place.name for place in places],
        "processes_at_once": arguments.processes,
    }
    bigram = bigram_loss(text.train, held_out_windows(text.held_out, settings))
    record = Record(arguments.output, settings, bigram, [*folder.sessions(session)], known)
    record.write()
    done = {one.run for one in known if one.status.final}
    left = [run for run in runs if run not in done]
    print(_told(settings, text, bigram, len(left)), flush=True)

    def ended(outcome: Outcome, place: Place | None) -> None:
        record.keep(outcome)
        where = "" if place is None else f" ({place.name}, {time.time() - begin:.0f} s)"
        print(line_of(outcome, where), flush=True)

    run_all(left, places, folder, begin + limit_s - RESERVE_S, ended=ended)
    print(record.table())
    return 0


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    given = sys.argv[1:] if given is None else list(given)
    arguments = _arguments(given)
    command = recorded("bench.train_gpt", given)
    try:
        recipes, settings = _recipes(arguments.recipes), _settings(arguments)
        if arguments.output is not None:
            check_outfile(arguments.output, SCHEMA)
        text = gather(
            arguments.text or package_folders(),
            limit=int(arguments.most_megabytes * MEGABYTE),
            least=int(arguments.least_megabytes * MEGABYTE),
        )
        settings = replace(settings, text=text.card.to_dict())
        if arguments.dry_run:
            bigram = bigram_loss(text.train, held_out_windows(text.held_out, settings))
            print(_told(settings, text, bigram, len(recipes) * arguments.seeds))
            return 0
        return _train(arguments, settings, text, recipes, command)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
