"""What every test runs under."""

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_NUMBERS = itertools.count()
# The same examples every time, however slow the machine: no run fails by chance, or by its load.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def _own_caches(_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches, or those of the test before it."""
    # Not made: whoever caches makes it.  pytest would list the folders of all tests before.
    number = next(_NUMBERS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(_caches / str(number)))
    monkeypatch.setenv("XDG_DATA_HOME", str(_caches / f"{number}-data"))
