"""The report in a browser: it draws, says nothing on the console, and fits a phone."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import invented_run

from workbench.reporting import write_report

pytestmark = pytest.mark.slow

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: After which a browser is given up; a busy host's starts slowly.
PATIENCE_S = 180
SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True), "small phone": (320, 640, True)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=path, args=list(FLAGS), timeout=1e3 * PATIENCE_S
        )
        yield started
        started.close()


def opened(browser: Any, path: Path, size: str, scheme: str) -> tuple[Any, list[str], list[str]]:
    """The page with what it said on the console and what it asked the network for."""
    width, height, touch = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        has_touch=touch,
        is_mobile=touch,
    )
    context.set_default_timeout(1e3 * PATIENCE_S)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    return page, said, asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("simulated", "plots"), [(False, 8), (True, 7)])
def test_every_plot_is_drawn_and_the_page_fits(
    browser: Any, tmp_path: Path, size: str, scheme: str, simulated: bool, plots: int
) -> None:
    path = write_report(invented_run(simulated=simulated), tmp_path / "report.html")
    page, said, asked = opened(browser, path, size, scheme)
    drawn = page.locator(".js-plotly-plot")
    assert drawn.count() == plots
    for index in range(plots):
        plot = drawn.nth(index)
        assert plot.locator("svg.main-svg").count() >= 1
        assert plot.locator(".trace").count() >= 1, plot.get_attribute("id")
    assert said == []
    assert asked == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    if size != "desktop":  # the winners' configurations are seen without scrolling sideways
        tables = page.locator("#winners .scroll")
        assert tables.count() >= 1
        for index in range(tables.count()):
            wide = tables.nth(index).evaluate("t => t.scrollWidth - t.clientWidth")
            assert wide <= 0, tables.nth(index).get_attribute("aria-label")
    ink = page.evaluate("getComputedStyle(document.querySelector('.ytick text')).fill")
    assert ink == {"light": "rgb(28, 33, 40)", "dark": "rgb(230, 233, 238)"}[scheme]


def test_menus_and_the_colour_scheme_change_the_plots(browser: Any, tmp_path: Path) -> None:
    path = write_report(invented_run(), tmp_path / "report.html")
    page, said, _ = opened(browser, path, "desktop", "light")
    for key in ("convergence", "error-against-speed"):
        for index in range(page.locator(f"#{key}-view option").count()):
            page.select_option(f"#{key}-view", index=index)
            assert page.locator(f"#{key} .trace").count() >= 1
    page.select_option("#convergence-view", index=1)
    title = page.locator("#convergence .ytitle").text_content()
    assert title == "measured time, us"
    page.emulate_media(color_scheme="dark")
    # The page's policy refuses evaluated predicates, so this polls instead of the page.
    deadline = time.monotonic() + PATIENCE_S
    ink = "getComputedStyle(document.querySelector('.ytick text')).fill"
    while page.evaluate(ink) != "rgb(230, 233, 238)":
        assert time.monotonic() < deadline, page.evaluate(ink)
        page.wait_for_timeout(20)
    assert page.locator("#convergence .ytitle").text_content() == title
    assert said == []


@pytest.mark.parametrize("energy", [False, True])
def test_time_energy_and_error_are_drawn_as_bubbles(
    browser: Any, tmp_path: Path, energy: bool
) -> None:
    path = write_report(invented_run(energy=energy), tmp_path / "report.html")
    page, said, _ = opened(browser, path, "desktop", "light")
    menu = page.locator("#time-energy-error-view option")
    for index in range(menu.count()):
        page.select_option("#time-energy-error-view", index=index)
        assert page.locator("#time-energy-error path.point").count() > 1
        # The words about the bubbles lie above the plot, clear of the toolbar.
        words = page.locator("#time-energy-error .annotation").bounding_box()
        tools = page.locator("#time-energy-error .modebar").bounding_box()
        assert words["x"] + words["width"] < tools["x"]
    kind = "measured" if energy else "predicted"
    assert f"area: {kind} energy" in page.locator("#time-energy-error .annotation").text_content()
    assert said == []


def test_hostile_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    hostile = "</script><script>window.hit=1</script><img src=x onerror=window.hit=2>"
    run = invented_run(kernel=hostile, path=hostile, rejected_by_rule={hostile: 9}, name="<b>")
    path = write_report(run, tmp_path / "report.html")
    page, said, asked = opened(browser, path, "desktop", "light")
    page.select_option("#convergence-view", index=1)
    assert page.evaluate("window.hit") is None
    assert page.locator("img").count() == 0
    assert page.locator("svg a").count() == 0
    assert said == []
    assert asked == [path.as_uri()]
