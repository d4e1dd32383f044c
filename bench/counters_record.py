r"""What the hardware counted of whole kernels, out of a report of Nsight Compute, as a record.

    ncu --set full --clock-control none --profile-from-start off -o report \
        python -m bench.executed launches.json
    ncu --import report.ncu-rep --page details > details.txt
    ncu --import report.ncu-rep --page source --csv --print-source sass > source.csv
    python -m bench.counters_record details.txt source.csv --launches launches.json --commit HASH \
        --output counters.json

``details.txt`` has tables of metrics by section, ``source.csv`` executed instructions and sampled
stalls a line of machine code.  Kernels stand in both in the order of their launches.
"""

import argparse
import csv
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.executed import MARK
from workbench.outfile import write_outfile

__all__ = ["main", "read_details", "read_source", "record"]

SCHEMA = "tile-workbench/counters/1"
#: Sections whose metrics the record keeps, by the name that ``ncu`` gives them.
SECTIONS = (
    "GPU Speed Of Light Throughput",
    "Compute Workload Analysis",
    "Memory Workload Analysis",
    "Scheduler Statistics",
    "Warp State Statistics",
    "Launch Statistics",
    "Occupancy",
)
#: Shares below this are left out of stalls and instructions.
LEAST_SHARE = 0.005
_KERNEL = re.compile(r"^  (\S.*) \((\d+), (\d+), (\d+)\)x\((\d+), (\d+), (\d+)\), Context ")
_RULE = re.compile(r"^    -+ -+ -+$")


def read_details(text: str) -> list[dict[str, Any]]:
    """Of every kernel its name and ``{section: {metric: [value, unit]}}``.

    Raises:
        ValueError: no kernel, or a figure that is no number.
    """
    found: list[dict[str, Any]] = []
    section, columns = "", (0, 0)
    for line in text.splitlines():
        if kernel := _KERNEL.match(line):
            found.append({"kernel": kernel[1].partition("<")[0].split()[-1], "metrics": {}})
            section = ""
        elif line.startswith("    Section: "):
            section = line.removeprefix("    Section: ").strip()
        elif _RULE.match(line):
            name, unit, _ = line.strip().split(" ")
            columns = (4 + len(name), 4 + len(name) + 1 + len(unit))
        elif section in SECTIONS and found and re.match(r"^    [A-Z#].*\S +\S+$", line):
            name, unit, value = (
                line[: columns[0]].strip(),
                line[columns[0] : columns[1]].strip(),
                line[columns[1] :].strip(),
            )
            if name and re.fullmatch(r"[-\d,.]+", value):
                number = float(value.replace(",", ""))
                found[-1]["metrics"].setdefault(section, {})[name] = [number, unit]
    if not found:
        raise ValueError("no kernel in the details: write them with `ncu --page details`")
    return found


def read_source(lines: Iterator[str]) -> list[dict[str, Any]]:
    """Of every kernel its instructions, and shares: of opcodes in them, of opcodes and of stalls in
    the samples of where its warps stood.

    Raises:
        ValueError: no kernel.
    """
    found: list[tuple[str, Counter[str], Counter[str], Counter[str]]] = []
    header: list[str] = []
    for row in csv.reader(lines):
        if row and row[0] == "Kernel Name":
            found.append((row[1].partition("<")[0].split()[-1], Counter(), Counter(), Counter()))
        elif row and row[0] == "Address":
            header = row
        elif found and len(row) == len(header):
            _, opcodes, sampled, stalls = found[-1]
            one = dict(zip(header, row, strict=True))
            words = [word for word in one["Source"].split() if not word.startswith("@")]
            opcode = words[0].split(".")[0]
            opcodes[opcode] += int(one["Instructions Executed"])
            sampled[opcode] += int(one["# Samples"])
            for name, value in one.items():
                if name.startswith("stall_") and not name.endswith("(Not Issued)"):
                    stalls[name.removeprefix("stall_")] += int(value)
    if not found:
        raise ValueError("no kernel in the source page: write it with `ncu --page source --csv`")
    return [
        {
            "kernel": name,
            "instructions": opcodes.total(),
            "opcodes": _shares(opcodes),
            "samples": sampled.total(),
            "sampled": _shares(sampled),
            "stalls": _shares(stalls),
        }
        for name, opcodes, sampled, stalls in found
    ]


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = max(counts.total(), 1)
    return {
        name: round(count / total, 4)
        for name, count in counts.most_common()
        if count >= LEAST_SHARE * total
    }


def _by_launch(kernels: Sequence[dict[str, Any]], count: int) -> list[list[dict[str, Any]]]:
    """Kernels behind each mark; where nothing is marked, a kernel is a launch."""
    if not any(MARK == one["kernel"] for one in kernels):
        launches = [[one] for one in kernels]
    else:
        launches = []
        for one in kernels:
            if MARK == one["kernel"]:
                launches.append([])
            elif launches:
                launches[-1].append(one)
    if len(launches) != count:
        raise ValueError(f"the pages hold {len(launches)} launches, {count} were asked for")
    return launches


def record(
    details: Sequence[dict[str, Any]],
    source: Sequence[dict[str, Any]],
    launches: Sequence[Any],
    commit: str,
) -> dict[str, Any]:
    """The record: every launch with its kernels.

    Args:
        launches: what was launched: problem, family and configuration.

    Raises:
        ValueError: the pages are of other kernels, or of another number of launches.
    """
    if [one["kernel"] for one in details] != [one["kernel"] for one in source]:
        raise ValueError("the pages list other kernels: write both from one report")
    both = [one | two for one, two in zip(details, source, strict=True)]
    return {
        "schema": SCHEMA,
        "commit": commit,
        "launches": [
            {"launch": what, "kernels": kernels}
            for what, kernels in zip(launches, _by_launch(both, len(launches)), strict=True)
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 2 for pages that do not belong together."""
    parser = argparse.ArgumentParser(
        "bench.counters_record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("details", type=Path)
    parser.add_argument("source", type=Path, help="may be compressed by gzip")
    parser.add_argument("--launches", type=Path, required=True, help="as bench.executed had them")
    parser.add_argument("--commit", required=True, help="of the sources that ran")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(argv)
    try:
        with (gzip.open if given.source.suffix == ".gz" else open)(given.source, "rt") as lines:
            source = read_source(lines)
        details = read_details(given.details.read_text())
        asked = json.loads(given.launches.read_text())
        found = record(details, source, asked, given.commit)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    write_outfile(given.output, json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
