"""Element formats that other distributions offer under the entry point group."""

from pathlib import Path

import pytest

from tiles.formats import IntElement, TensorFormat, element
from tiles.recipes import Recipe

ENTRY = "tile_workbench.formats"
OFFERED = IntElement(name="fixed6", bits=6)
WRONG_NAME = IntElement(name="int5", bits=5)


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution on the path that offers three entries, two of them wrong."""
    info = tmp_path / "more_formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-formats\nVersion: 1.0\n")
    entries = (("fixed6", "OFFERED"), ("fixed7", "WRONG_NAME"), ("fixed3", "ENTRY"))
    lines = [f"{name} = {__name__}:{attribute}" for name, attribute in entries]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY}]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("offered")
def test_an_offered_element_is_an_element_like_any_other() -> None:
    assert element("fixed6") is OFFERED
    fmt = TensorFormat.parse("fixed6.b32x32+sr")
    assert (fmt.element, str(fmt)) == (OFFERED, "fixed6.b32x32+sr")
    one = Recipe.of("mine", activation="fixed6.row", source="a test")
    assert one.weight.element is OFFERED


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("name", ["fixed7", "fixed3"])
def test_an_entry_that_is_no_element_of_its_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"is no element format named '{name}'"):
        element(name)


def test_without_the_distribution_the_name_is_unknown() -> None:
    with pytest.raises(ValueError, match="unknown element format 'fixed6'"):
        element("fixed6")
