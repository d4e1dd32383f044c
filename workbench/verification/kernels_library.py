"""Hugging Face's ``kernels`` library, asked what it makes of a kernel's folder.

The names that parse and hash are private and have moved between versions: they are looked for here
and nowhere else.  Loading runs the kernel's code, so verification asks in a process of its own;
run as a module, this prints a line of JSON for each check.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from workbench.emission.hub_variant import VARIANT
from workbench.verification.report import Check, Outcome

__all__ = ["check_digests", "library_checks", "parse_build"]

TIME_LIMIT_S = 600
#: Modules that have held the parser.
_HOMES = ("kernels._rust", "kernels_data")


def _parser() -> Any:
    for name in _HOMES:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            continue
        module = importlib.import_module(name)
        if all(hasattr(module, part) for part in ("Build", "Digest", "Metadata")):
            return module
    version = importlib.metadata.version("kernels")
    raise ValueError(f"kernels {version} keeps its parser elsewhere: install kernels 0.17")


def parse_build(folder: Path) -> None:
    """Have the library parse ``build.toml``.

    Raises:
        ValueError: it refuses the file.
    """
    _parser().Build.open(folder)


def check_digests(variant: Path) -> None:
    """Have the library hash a built variant and compare.

    Raises:
        ValueError: a file is missing, edited or extra, or there are no digests.
    """
    parser = _parser()
    metadata = parser.Metadata.read_from_file(variant / "metadata.json")
    if metadata.digest is None:
        raise ValueError(f"{variant}/metadata.json holds no digests: emit the kernel again")
    found = parser.Digest.hash_variant(metadata.digest.algorithm, variant)
    try:
        metadata.digest.validate(found)
    except parser.DigestValidationError as error:
        raise ValueError(f"{variant}: {error}") from error


def library_checks(folder: Path) -> list[Check]:
    """Parse, hash and load a kernel by the library, in another process.

    Args:
        folder: that emit wrote.
    """
    if importlib.util.find_spec("kernels") is None:
        return [
            Check(
                name="kernels library",
                status=Outcome.SKIPPED,
                detail="kernels is not installed: pip install kernels",
            )
        ]
    command = [sys.executable, "-m", __name__, str(folder.resolve())]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # the folder is the caller's
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        detail = f"it took longer than {TIME_LIMIT_S} s"
        return [Check(name="kernels library", status=Outcome.FAILED, detail=detail)]
    checks = [
        Check(name=line["name"], status=Outcome(line["status"]), detail=line["detail"])
        for line in map(json.loads, filter(None, done.stdout.splitlines()))
    ]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        detail = f"its process ended with {done.returncode}: {last[:500]}"
        checks.append(Check(name="kernels library", status=Outcome.FAILED, detail=detail))
    return checks


def _load(variant: Path) -> str:
    module = importlib.import_module("kernels").get_local_kernel(variant)
    return f"{module.__name__} has {', '.join(module.__all__)}"


def main(folder: Path) -> None:
    """Print a line of JSON for each check."""
    version = importlib.metadata.version("kernels")
    steps = (
        ("parses", lambda: parse_build(folder), f"build.toml, by kernels {version}"),
        ("digests of the variant", lambda: check_digests(folder / VARIANT), "as kernels has them"),
        ("loads", lambda: _load(folder / VARIANT), ""),
    )
    for name, step, detail in steps:
        try:
            told = step() or detail
            line = {"name": name, "status": Outcome.PASSED.value, "detail": told}
        except (ValueError, ImportError, OSError, AttributeError, RuntimeError) as error:
            told = " ".join(str(error).split())
            line = {"name": name, "status": Outcome.FAILED.value, "detail": told}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
