"""Names that an emitted package may not take from what it is built and run with."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from workbench.emission.naming import check_package_name

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required() -> list[str]:
    """Import names, installed here, of the distributions that the workbench pins."""
    lines = CONSTRAINTS.read_text().splitlines()
    pinned = {_canonical(line.partition("==")[0]) for line in lines if "==" in line}
    installed = importlib.metadata.packages_distributions()
    return sorted(
        top
        for top, distributions in installed.items()
        if re.fullmatch("[a-z][a-z0-9_]*", top)
        and any(_canonical(name) in pinned for name in distributions)
    )


def test_names_of_requirements_are_taken() -> None:
    names = _required()
    assert {"torch", "yaml", "optuna", "pytest", "flit_core"} <= set(names)
    for name in names:
        with pytest.raises(ValueError, match=f"package name '{name}' is taken"):
            check_package_name(name)


@pytest.mark.parametrize("name", ["setuptools", "pkg_resources", "wheel", "build", "flit", "cupyx"])
def test_names_of_build_tools_and_extras_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match="is taken by Python or a dependency"):
        check_package_name(name)


@pytest.mark.parametrize("name", ["my_kernels", "tile_kernels_h200", "k"])
def test_other_names_are_free(name: str) -> None:
    assert check_package_name(name) == name
