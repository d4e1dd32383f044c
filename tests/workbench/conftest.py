"""The command line in the tests' process."""

import sys
from pathlib import Path

import pytest
from command_line import Answer, Call


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process, in the folder where the test is."""
    from workbench.cli import main

    def run(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
        capsys.readouterr()  # what was printed before is not of this command
        with pytest.raises(SystemExit) as stop:
            main()
        return Answer(int(stop.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative paths are of this folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
