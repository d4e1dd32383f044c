"""A package that patches, imported with the kernels' references in their place."""

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
from imported_package import imported
from patched_models import emitted, reference_in_place

from workbench.emission import EmittedPackage

__all__ = ["NAME", "module", "nothing_warned_yet", "package"]

NAME = "patch_pack"
OPERATORS = (f"{NAME}._gemm", f"{NAME}._quantize")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    return emitted(tmp_path_factory.mktemp("patch") / "kernels", NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        operators = [(one, one._make) for one in map(importlib.import_module, OPERATORS)]
        reference_in_place(NAME)
        yield found
        for one, make in operators:
            one._make = make


@pytest.fixture(autouse=True)
def nothing_warned_yet(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._lookup, "_warned", set())
