"""What every test runs under."""

import contextlib
import gc
import itertools
import os
from collections.abc import Generator
from pathlib import Path

import pytest

# First of all: later it would replace the distutils that others have imported, and torch's
# compiler, which imports it, would fail.  Where tests/gpu alone are run it may be missing.
with contextlib.suppress(ModuleNotFoundError):
    import setuptools  # noqa: F401

#: The files that take longest, in the order of their CPU time.  They begin first: where several
#: processes take file after file, none is left alone with one of these at the end.
LONGEST = (
    "test_fleet_postgres.py",
    "test_verify_package.py",
    "test_kills.py",
    "test_hopper_skinny_host.py",
    "test_torch_codec.py",
    "test_hopper_blocks_compile.py",
    "test_hopper_gemm_compile.py",
    "test_verify_mutations.py",
    "test_accuracy_encoder.py",
    "test_readme.py",
    "test_verify_functions.py",
    "test_emit_project_tests.py",
    "test_hopper_weight_only_host.py",
    "test_gemm_compile.py",
    "test_dataflow_host.py",
    "test_hopper_skinny_compile.py",
    "test_hub_library.py",
    "test_compile_facts.py",
    "test_worker.py",
    "test_guides.py",
    "test_damaged_runs.py",
    "test_expected_sqnr.py",
    "test_hostile_sweep.py",
    "test_error_slices.py",
    "test_verify_hopper.py",
    "test_decoded_compile.py",
    "test_hopper_gemm_host.py",
    "test_quantize_triton.py",
    "test_measuring_kills.py",
    "test_gemm_interpreted.py",
    "test_emit_torch.py",
    "test_weight_only_compile.py",
    "test_tile_kernels.py",
    "test_hopper_grouped.py",
    "test_microbench_compile.py",
    "test_replay.py",
    "test_calibrate.py",
    "test_emit_skinny.py",
    "test_weight_only_interpreted.py",
    "test_hopper_blocks_host.py",
    "test_fleet_cli.py",
    "test_sweep.py",
)

_NUMBERS = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """One thread a process; the same examples of hypothesis every time, however slow the machine.

    The matrices are small, as many processes as cores run beside each other, and threads of torch
    that wait for work take a core each.  On a GPU's host one process has all cores.
    """
    if config.option.markexpr != "gpu":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        from hypothesis import HealthCheck, settings
    except ModuleNotFoundError:
        return  # where tests/gpu alone are run
    settings.register_profile(
        "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thirteen thousand tests are no garbage: nothing looks for any among them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


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
