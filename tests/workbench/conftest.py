"""The command line in the tests' process, and a finished sweep with its package."""

import shutil
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


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run folder; tests copy it."""
    from emit_runs import simulated_run

    folder = tmp_path_factory.mktemp("finished") / "run"
    simulated_run(folder, [("gemm:256x256x256:bf16:bf16", "triton_gemm")])
    return folder


@pytest.fixture
def run_folder(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished_sweep, tmp_path / "run"))


@pytest.fixture(scope="session")
def emitted_package(finished_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of that sweep; tests copy it."""
    from workbench import emit

    return emit(finished_sweep, tmp_path_factory.mktemp("emitted") / "package").folder
