"""Element formats that other distributions offer under the entry point group."""

from importlib import metadata

import pytest

from tiles.formats import IntElement, TensorFormat, catalogue, element
from tiles.recipes import Recipe

ENTRY = "tile_workbench.formats"
OFFERED = IntElement(name="int6", bits=6)
WRONG_NAME = IntElement(name="int5", bits=5)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that offers three entries, two of them wrong."""
    points = metadata.EntryPoints(
        metadata.EntryPoint(name=name, value=f"{__name__}:{attribute}", group=ENTRY)
        for name, attribute in (("int6", "OFFERED"), ("int7", "WRONG_NAME"), ("int3", "ENTRY"))
    )
    monkeypatch.setattr(catalogue.metadata, "entry_points", points.select)


@pytest.mark.usefixtures("offered")
def test_an_offered_element_is_an_element_like_any_other() -> None:
    assert element("int6") is OFFERED
    fmt = TensorFormat.parse("int6.b32x32+sr")
    assert (fmt.element, str(fmt)) == (OFFERED, "int6.b32x32+sr")
    one = Recipe.of("mine", activation="int6.row", source="a test")
    assert one.weight.element is OFFERED


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("name", ["int7", "int3"])
def test_an_entry_that_is_no_element_of_its_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"is no element format named '{name}'"):
        element(name)


def test_without_the_distribution_the_name_is_unknown() -> None:
    with pytest.raises(ValueError, match="unknown element format 'int6'"):
        element("int6")
