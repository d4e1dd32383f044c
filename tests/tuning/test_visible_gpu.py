"""Which GPU CUDA programs would use, as NVML and nvidia-smi tell it."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tuning.visible_gpu import visible_gpu

TWO = [("GPU-aaaa-1", "NVIDIA H200"), ("GPU-aabb-2", "NVIDIA A100-SXM4-80GB")]


def fake_smi(folder: Path, body: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


class FakeNvmlError(Exception):
    """Stands in for ``pynvml.NVMLError``."""


def fake_nvml(fails: bool) -> ModuleType:
    module = ModuleType("pynvml")

    def init() -> None:
        if fails:
            raise FakeNvmlError

    fakes = {
        "NVMLError": FakeNvmlError,
        "nvmlInit": init,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(TWO),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda index: TWO[index][0].encode(),
        "nvmlDeviceGetName": lambda index: TWO[index][1],
    }
    for name, value in fakes.items():
        setattr(module, name, value)
    return module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of its own, no pynvml, no CUDA_VISIBLE_DEVICES."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


VISIBLE = [
    (None, "NVIDIA H200"),
    ("0", "NVIDIA H200"),
    ("1", "NVIDIA A100-SXM4-80GB"),
    (" 1,0", "NVIDIA A100-SXM4-80GB"),
    ("GPU-aabb", "NVIDIA A100-SXM4-80GB"),
    ("GPU-aa", None),
    ("GPU-cc", None),
    ("2", None),
    ("", None),
    ("-1", None),
    ("NoDevFiles", None),
    ("MIG-aaaa-1", None),
]


@pytest.mark.parametrize("source", ["nvidia-smi", "pynvml"])
@pytest.mark.parametrize(("visible", "name"), VISIBLE)
def test_the_first_visible_device_is_named(
    source: str,
    visible: str | None,
    name: str | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if source == "pynvml":
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(fails=False))
    else:
        fake_smi(folder, "\n".join(f"echo '{uuid}, {gpu}'" for uuid, gpu in TWO))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpu() == name


@pytest.mark.parametrize("body", ["exit 9", "echo 'No devices were found'", "true", "sleep 5"])
def test_no_driver_means_no_gpu(body: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.visible_gpu.TIMEOUT_S", 0.5)
    fake_smi(folder, f"PATH=/usr/bin:/bin; exec {body}" if body.startswith("sleep") else body)
    assert visible_gpu() is None


def test_no_tool_means_no_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_gpu() is None
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(fails=True))
    assert visible_gpu() is None


SWEEP = """\
schema: 1
gpu: h200
problems: [{shape: [64, 64, 64]}]
recipes: [bf16]
output: run
"""


@pytest.mark.parametrize("gpu", ["NVIDIA H200", "NVIDIA H100 80GB HBM3", ""])
def test_auto_plans_by_the_gpu_and_simulates_without_torch(gpu: str, folder: Path) -> None:
    fake_smi(folder, f"echo 'GPU-1, {gpu}'" if gpu else "exit 9")
    (folder / "sweep.yaml").write_text(SWEEP)
    script = (
        "import sys; sys.modules['pynvml'] = None; "
        "from workbench.sweepfile import load_sweepfile; "
        "import tuning, pathlib; "
        "plan = load_sweepfile(sys.argv[1]).to_plan("
        "output=pathlib.Path(sys.argv[2]), max_measurements=2); "
        "plan.simulate and tuning.run(plan); "
        "print(plan.simulate, {'torch', 'triton', 'cupy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "sweep.yaml"), str(folder / "run")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == f"{gpu != 'NVIDIA H200'} set()"
