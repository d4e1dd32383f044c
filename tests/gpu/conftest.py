"""What tests on a GPU run under, beside what all tests do."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dealing import dealt
from huge_tensors import huge
from turns import pytest_runtest_call, pytest_runtest_protocol

if TYPE_CHECKING:
    from sim import Gpu
    from workbench.nn.cuda_backend import CudaBackend

__all__ = ["huge", "pytest_runtest_call", "pytest_runtest_protocol"]


def _listed() -> list[str]:
    """The host's GPUs by number; none without the driver's tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=60)
    gpus = [line for line in answer.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))]


def pytest_configure() -> None:
    """Before torch is loaded: processes of one run take the host's GPUs in turns."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    gpu = dealt(worker, os.environ.get("CUDA_VISIBLE_DEVICES"), _listed() if worker else ())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


@pytest.fixture(autouse=True)
def _torch_kernels(_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the kernels that torch compiles at run time.

    It makes none where ``XDG_CACHE_HOME`` does not exist yet, and warns, which is an error here.
    """
    folder = _caches / "torch-kernels"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("PYTORCH_KERNEL_CACHE_PATH", str(folder))


@pytest.fixture(scope="session")
def gpu() -> "Gpu":
    """The GPU file of the device."""
    import torch

    from sim import gpu_names, load_gpu

    name = torch.cuda.get_device_name()
    found = next((one for one in map(load_gpu, gpu_names()) if one.matches(name)), None)
    return found or pytest.skip(f"no GPU file for {name}")


@pytest.fixture
def hopper() -> None:
    """For kernels that are of one capability."""
    import torch

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is for capability 9.0")


@pytest.fixture(scope="module")
def kernels() -> "CudaBackend":
    """The training layers' kernels on the GPU that this process has."""
    import torch

    from workbench.nn.cuda_backend import CudaBackend

    pytest.importorskip("cupy")
    return CudaBackend(torch.device("cuda", torch.cuda.current_device()))
