"""The functions that packages can have fit together: files, families, checks, smoke calls."""

import ast
from pathlib import Path

import pytest

from tiles.kernels import kernels
from workbench.emission import package_files
from workbench.emission.function import Function
from workbench.emission.functions import EMITTED, FUNCTIONS
from workbench.verification import smoke
from workbench.verification.functions import CHECKS

FILES = Path(str(package_files.__file__)).parent


def test_every_function_has_checks_and_a_name_of_its_own() -> None:
    names = [function.name for function in FUNCTIONS]
    assert len(set(names)) == len(names)
    assert set(CHECKS) == set(names)


def test_every_kernel_has_a_function() -> None:
    assert set(EMITTED) == set(kernels())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_what_its_files_import_ships_with_them(function: Function) -> None:
    shipped = {"__init__.py", "_lookup.py", *function.files(function.families)}
    for name in shipped:
        tree = ast.parse((FILES / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                modules = [node.module] if node.module else [alias.name for alias in node.names]
                assert {f"{module}.py" for module in modules} <= shipped, name


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_a_public_name_leads_to_its_module(function: Function) -> None:
    name, _, inner = function.name.partition(".")
    home = f"{name}.py" if inner else f"{package_files._HOMES[name]}.py"
    assert home in function.files(function.families)
    text = (FILES / home).read_text(encoding="utf-8")
    assert f"def {inner or name}(" in text


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_every_function_is_called_without_the_workbench(function: Function) -> None:
    folder = Path(str(smoke.__file__)).parent
    called = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    name, _, inner = function.name.partition(".")
    assert f"package.{name}(" in called if not inner else f".{name}" in called
