"""Binaries of CUDA C++ that were compiled ahead, and who finds them."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sim
from tiles.kernels.cuda import modules
from tiles.kernels.nvrtc import compiler_name
from tiles.kernels.offline_cuda import facts_of

KERNEL = (
    '#include "shared.cuh"\nextern "C" __global__ void f(float *x) { *x = VALUE * twice(1); }\n'
)
HEADER = "__device__ float twice(float x) { return 2 * x; }\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel with a header, and a folder for what is compiled ahead."""
    monkeypatch.setenv(modules.BINARIES, str(tmp_path / "binaries"))
    (tmp_path / "shared.cuh").write_text(HEADER)
    (tmp_path / "f.cu").write_text(KERNEL)
    return tmp_path / "f.cu"


class FakeCupy:
    """CuPy on a device of capability 9.0, as far as loading a module goes."""

    def __init__(self, version: tuple[int, int]) -> None:
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(compute_capability="90"),
            nvrtc=SimpleNamespace(getVersion=lambda: version),
        )

    def RawModule(self, **arguments: Any) -> dict[str, Any]:
        return arguments


def installed_version() -> tuple[int, int]:
    name = compiler_name()
    assert name is not None
    major, minor = name.removeprefix("nvrtc ").split(".")
    return int(major), int(minor)


def test_headers_are_written_in_where_they_are_included(source: Path) -> None:
    assert modules.read_source(source) == KERNEL.replace('#include "shared.cuh"', HEADER)


@pytest.mark.parametrize("options", [("-DVALUE=3",), ("-DVALUE=3", "-arch=sm_90a")])
def test_what_was_compiled_ahead_is_loaded(
    source: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(installed_version()))
    named = [option for option in options if not option.startswith("-arch=")]
    target = "sm_90a" if len(options) == 2 else ""
    facts = facts_of(source, named, 32, sim.load_gpu("h200").limits, target=target)
    assert facts is not None
    loaded = modules.load(source, options)
    (made,) = (source.parent / "binaries").glob("*.cubin")
    assert loaded == {"path": str(made)}
    assert made.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    "change", ["options", "source", "header", "compiler", "architecture", "folder"]
)
def test_anything_else_is_compiled_anew(
    source: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts_of(source, ("-DVALUE=3",), 32, sim.load_gpu("h200").limits) is not None
    version = installed_version()
    options: tuple[str, ...] = ("-DVALUE=3",)
    if change == "options":
        options = ("-DVALUE=4",)
    elif change == "source":
        source.write_text(KERNEL + "\n")
    elif change == "header":
        source.with_name("shared.cuh").write_text(HEADER + "\n")
    elif change == "compiler":
        version = (version[0], version[1] + 1)
    elif change == "architecture":
        options = (*options, "-arch=sm_90a")
    else:
        monkeypatch.delenv(modules.BINARIES)
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(version))
    code = modules.read_source(source)
    assert modules.load(source, options) == {"code": code, "options": options}


def test_a_folder_that_cannot_be_written_keeps_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(modules.BINARIES, str(tmp_path / "file" / "binaries"))
    modules.keep_binary("name.cubin", b"binary")
    assert (tmp_path / "file").read_text() == ""
