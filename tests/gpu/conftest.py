"""What tests on a GPU run under, beside what all tests do."""

from pathlib import Path

import pytest
from huge_tensors import huge

__all__ = ["huge"]


@pytest.fixture(autouse=True)
def _torch_kernels(_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the kernels that torch compiles at run time.

    It makes none where ``XDG_CACHE_HOME`` does not exist yet, and warns, which is an error here.
    """
    folder = _caches / "torch-kernels"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("PYTORCH_KERNEL_CACHE_PATH", str(folder))
