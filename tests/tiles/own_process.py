"""Scripts beside the tests, run in a Python of their own: Triton reads TRITON_INTERPRET once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def lines_of(
    script: str, *arguments: str, stdin: str = "", interpret: bool = False, timeout_s: float = 1800
) -> list[str]:
    """What a script prints; its failure fails the test with what it wrote to stderr.

    Args:
        interpret: in Triton's interpreter, on the CPU, its memory accesses checked; else Triton
            compiles.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    # One thread: the tensors are small, and other tests run beside these.
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    checker = [str(HERE / "interpreted_memory.py")] if interpret else []
    done = subprocess.run(
        [sys.executable, *checker, str(HERE / script), *arguments],
        input=stdin,
        cwd=ROOT,
        env=environment | ({"TRITON_INTERPRET": "1"} if interpret else {}),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def interpreted(script: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Asks a script of Triton's interpreter, which reads cases and prints their outcomes."""

    def ask(cases: dict[str, Any]) -> dict[str, Any]:
        told = lines_of(script, stdin=json.dumps(list(cases.values())), interpret=True)
        return dict(zip(cases, json.loads("".join(told)), strict=True))

    return ask


def compiled(script: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Asks a script of the compiler, which takes names of cases and prints a line for each."""

    def ask(cases: dict[str, Any]) -> dict[str, Any]:
        return {found["case"]: found for found in map(json.loads, lines_of(script, *cases))}

    return ask


class Outcomes:
    """What a script says of cases by name: the quick ones in one process, the slow ones in another.

    Each process is started when a case of its own is first asked for.
    """

    def __init__(
        self,
        cases: Mapping[str, Any],
        quick: Collection[str],
        ask: Callable[[dict[str, Any]], Mapping[str, Any]],
    ) -> None:
        """Take cases.

        Args:
            quick: names of those that the default suite runs.
            ask: from some of the cases to their outcomes.
        """
        assert set(quick) < set(cases)
        self._cases = dict(cases)
        self._quick = frozenset(quick)
        self._ask = ask
        self._known: dict[str, Any] = {}
        self._failed: dict[bool, AssertionError] = {}

    def __getitem__(self, name: str) -> Any:
        quick = name in self._quick
        if quick in self._failed:
            raise AssertionError("the process of these cases failed") from self._failed[quick]
        if name not in self._known:
            together = {n: c for n, c in self._cases.items() if (n in self._quick) is quick}
            try:
                self._known |= self._ask(together)
            except AssertionError as error:
                self._failed[quick] = error
                raise
        return self._known[name]

    def parameters(self, wanted: Callable[[Any], bool] = lambda case: True) -> list[Any]:
        """Names of the cases that are wanted, for ``pytest.mark.parametrize``."""
        return [
            name if name in self._quick else pytest.param(name, marks=pytest.mark.slow)
            for name, case in self._cases.items()
            if wanted(case)
        ]
