"""What papers claim beside what was measured and predicted here.

python -m bench.papers > docs/papers.md
python -m bench.papers --evidence jetfire    # writes evidence/h200/jetfire.json; also ptq, mx

What was measured comes out of records in ``evidence/``; a claim that no record speaks to says so.
Outputs of the commands of the section "Predictions" are written anew by ``make docs``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.papers.evidence import write
from bench.papers.page import PAGE, page

__all__ = ["main"]


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    parser = argparse.ArgumentParser(prog="bench.papers", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--evidence", action="append", metavar="NAME", help="jetfire, ptq or mx: gather its figures"
    )
    parser.add_argument("--output", type=Path, help="another file than evidence/h200/NAME.json")
    arguments = parser.parse_args(sys.argv[1:] if given is None else given)
    if arguments.evidence is None:
        print(page(PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""), end="")
        return 0
    try:
        if arguments.output is not None and len(arguments.evidence) > 1:
            raise ValueError("--output takes one --evidence: leave it out, or ask for one")
        for name in arguments.evidence:
            print(write(name, arguments.output))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
