"""The page about a checkpoint in a browser: it draws, says nothing, and fits a phone."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from test_report_chromium import SIZES, browser, opened
from weight_files import HOSTILE, normal

import workbench

__all__ = ["browser"]  # the fixture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    names = [f"model.layers.{i}.{kind}_proj.weight" for i in range(6) for kind in "qkvo"]
    tensors = {name: normal(64, 64, seed) for seed, name in enumerate(names)}
    broken = normal(8, 8, 0)
    broken[0, 0] = float("nan")
    save_file({**tensors, HOSTILE: normal(8, 8, 1), "broken": broken}, folder / "m.safetensors")
    workbench.error(weights=folder / "m.safetensors", html=folder / "page.html")
    return folder / "page.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_heat_map_is_drawn_and_the_page_fits(
    browser: Any, page_file: Path, size: str, scheme: str
) -> None:
    page, said, asked = opened(browser, page_file, size, scheme)
    plot = page.locator(".js-plotly-plot")
    assert plot.count() == 1
    assert page.locator(".heatmaplayer image, .heatmaplayer .hm").count() >= 1
    assert page.locator(".ytick text").count() == 25
    assert said == []
    assert asked == [page_file.as_uri()]
    width = SIZES[size][0]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink = page.evaluate("getComputedStyle(document.querySelector('.ytick text')).fill")
    assert ink == {"light": "rgb(28, 33, 40)", "dark": "rgb(230, 233, 238)"}[scheme]
    # Every format keeps a label of its own, on a phone by scrolling the plot sideways.
    labels = page.locator(".xtick text").count()
    assert labels == len(page.evaluate("document.querySelector('.js-plotly-plot').data[0].x"))
    frame = page.evaluate("document.querySelector('.wide').scrollWidth")
    assert (frame > width) == (size != "desktop")


def test_the_menu_changes_the_heat_map(browser: Any, page_file: Path) -> None:
    page, said, _ = opened(browser, page_file, "desktop", "light")
    highest = "Math.max(...document.querySelector('.js-plotly-plot').data[0].z.flat())"
    assert page.evaluate(highest) > 20
    page.select_option("#layer-map-view", index=1)
    page.wait_for_function(f"{highest} === 0")
    assert said == []
