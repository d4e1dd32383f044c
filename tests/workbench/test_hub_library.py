"""What Hugging Face's own library makes of an emitted kernel: parsed, hashed, loaded, called."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from emit_runs import run_of, study

from workbench.emission.hub_kernel import EmittedKernel, write
from workbench.emission.hub_variant import variant_digests
from workbench.verification import Outcome, verify
from workbench.verification.hub_kernel import open_hub_kernel
from workbench.verification.kernels_library import check_digests, parse_build

pytestmark = [
    pytest.mark.slow,  # importing the library takes seconds
    pytest.mark.skipif(importlib.util.find_spec("kernels") is None, reason="needs kernels"),
]

TESTS_AND_WORKLOADS = """
import json, sys
from pathlib import Path
import pytest

root = Path(sys.argv[1])
failed = pytest.main(["tests", "-q", "-m", "kernels_ci", "-p", "no:cacheprovider"])

import torch
from kernels import get_local_kernel
from kernels.cli.benchmark import discover_benchmark_classes

kernel = get_local_kernel(root / "build/torch-cuda")
done = []
for owner in discover_benchmark_classes(root / "benchmarks/benchmark.py", root):
    names = sorted(n for n in dir(owner) if n.startswith("benchmark_"))
    assert names, owner  # the runner's own rule
    for name in names:
        load = owner()
        load.kernel = kernel
        work = name.removeprefix("benchmark_")
        getattr(load, f"setup_{work}")()
        getattr(load, name)()
        answer = getattr(load, f"verify_{work}")()
        done.append([owner.__name__, work, torch.allclose(load.out, answer, atol=1e-2)])
print(json.dumps([int(failed), done]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EmittedKernel:
    studies = (
        study("gemm:16x64x128:int8-row:bf16"),
        study("quantize:64x128:int8.b32x32:bf16", family="triton_quantize"),
    )
    return write(run_of(*studies), tmp_path_factory.mktemp("hub") / "kernel", name="tile-gemm")


def _interpreted(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_the_library_parses_it_and_finds_the_same_digests(
    made: EmittedKernel, tmp_path: Path
) -> None:
    from kernels._rust import Digest, DigestAlgorithm

    parse_build(made.folder)
    check_digests(made.variant)
    found = Digest.hash_variant(DigestAlgorithm.SHA256, made.variant)
    assert found.files == variant_digests(made.variant)
    copy = Path(shutil.copytree(made.folder, tmp_path / "kernel"))
    path = copy / "build/torch-cuda/_gemm.py"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match=r"File hash mismatch for _gemm\.py"):
        check_digests(copy / "build/torch-cuda")
    with pytest.raises(ValueError, match=r"_gemm\.py is not what EVIDENCE"):
        open_hub_kernel(copy)
    (copy / "build.toml").write_text((copy / "build.toml").read_text() + "ours = 1\n")
    with pytest.raises(ValueError, match="ours"):
        parse_build(copy)


def test_its_own_tests_and_workloads_run(made: EmittedKernel) -> None:
    """They load it by the library and call its operators on a CPU."""
    done = _interpreted("-c", TESTS_AND_WORKLOADS, made.folder, cwd=made.folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 passed, 1 skipped" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == [
        0,
        [
            ["GemmBenchmark", "int8_row_bf16_16_64_128", True],
            ["QuantizeBenchmark", "int8_b32x32_bf16_64_128", True],
        ],
    ]
    open_hub_kernel(made.folder)  # what tests leave behind is no change


def test_verification_calls_what_ships(tmp_path: Path) -> None:
    one = study("quantize:64x128:int8.b32x32:bf16", family="triton_quantize")
    made = write(run_of(one), tmp_path / "kernel", name="tile-gemm")
    report = verify(made.folder, device="cpu", seed=3)
    assert report.passed
    assert report.package == "tile_gemm"
    outcomes = {check.name: check.status for check in report.checks}
    for name in ("parses", "digests of the variant", "loads", "templates", "independence"):
        assert outcomes[name] is Outcome.PASSED, name
    assert outcomes["evidence"] is Outcome.SKIPPED  # simulated
    assert any(name.startswith("triton_quantize quantize:64x128") for name in outcomes)
