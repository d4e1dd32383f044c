"""What CI runs holds every promise, or fails."""

import re
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci" / "run"
#: The script with other answers: no browser, no root, a server or none, and nothing is made.
_STUBBED = """
compgen() {{ return {missing}; }}
command() {{ return 1; }}
id() {{ echo 1000; }}
make() {{ echo "make $*"; }}
. "$0"
"""


@pytest.mark.parametrize("missing", [0, 1])
def test_ci_does_not_pass_without_a_postgresql_server(missing: int) -> None:
    done = subprocess.run(
        ["bash", "-c", _STUBBED.format(missing=missing), str(CI)], capture_output=True, text=True
    )
    if missing:
        assert done.returncode == 1
        assert "pg_ctl is missing and could not be installed" in done.stderr
        assert "make" not in done.stdout
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["make check", "make test", "make test-slow"]


def test_the_files_that_begin_first_are_there() -> None:
    tests = Path(__file__).parent
    named = re.findall(r'"(test_\w+\.py)"', (tests / "conftest.py").read_text())
    assert len(named) > 20
    assert set(named) <= {path.name for path in tests.rglob("test_*.py")}
