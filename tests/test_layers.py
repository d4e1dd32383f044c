"""Imports point one way: workbench -> tuning -> sim -> tiles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["workbench", "tuning", "sim", "tiles"]  #: each may import those behind it


def imported_packages(source: str) -> set[str]:
    """Top-level names that a module imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            found.add(node.args[0].value.partition(".")[0])
    return found


def violations(package: str, folder: Path) -> list[str]:
    above = set(LAYERS[: LAYERS.index(package)])
    return [
        f"{path.relative_to(folder.parent)} imports {name}"
        for path in sorted(folder.rglob("*.py"))
        for name in sorted(imported_packages(path.read_text(encoding="utf-8")) & above)
    ]


@pytest.mark.parametrize("package", LAYERS)
def test_no_module_imports_a_layer_above_its_own(package: str) -> None:
    folder = ROOT / package
    assert list(folder.rglob("*.py"))
    assert violations(package, folder) == []


@pytest.mark.parametrize(
    "line",
    [
        "import workbench.cli",
        "from tuning import run",
        "def f():\n    from workbench.cli import main",
        "import importlib\nimportlib.import_module('tuning.plan')",
        "__import__('workbench')",
    ],
)
def test_the_check_sees_every_kind_of_import(line: str, tmp_path: Path) -> None:
    folder = tmp_path / "sim"
    folder.mkdir()
    (folder / "bad.py").write_text(line + "\n")
    (folder / "good.py").write_text("from tiles.formats import element\nfrom . import bad\n")
    (found,) = violations("sim", folder)
    assert found.startswith("sim/bad.py imports ") or found.startswith("sim\\bad.py")
