"""Where a user's own files lie, also where nobody knows the user."""

import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from sim.calibration.folder import calibration_path
from tiles.home_folder import home_folder
from tuning.cache_folder import cache_folder


def test_home_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder() == tmp_path


def test_a_user_that_nobody_listed_lives_at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def unlisted(uid: int) -> NoReturn:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unlisted)
    assert home_folder() == Path("/")
    assert cache_folder() == Path("/.cache/tile-workbench")
    assert calibration_path("h200") == Path("/.local/share/tile-workbench/calibrations/h200.json")
