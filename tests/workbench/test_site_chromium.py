"""The site in a browser: it draws, says nothing, fetches nothing, fits a phone, can be read."""

import base64
import csv
import io
from pathlib import Path
from typing import Any

import pytest
from report_runs import invented_run
from site_projects import CALIBRATION, ERROR, EVIDENCE, THEN, VERIFY, make, site, slower, small_runs
from test_report_chromium import PATIENCE_S, browser  # noqa: F401

from workbench.reporting.site.chart import Marks, Point, scatter
from workbench.reporting.site.frame import PAGES

pytestmark = pytest.mark.slow

SIZES = {"desktop": (1280, 900, False), "phone": (360, 740, True)}
RUN_PAGE = "runs/runs-today.html"

#: Least contrast of a text with what is behind it, as WCAG 2.2 asks of small text.
CONTRAST = 4.5
#: Every text that is seen, with its colour and that of the nearest background that is not clear.
TEXTS = """() => {
  const solid = e => {
    for (let at = e; at; at = at.parentElement) {
      const c = getComputedStyle(at).backgroundColor;
      if (c && !/, 0\\)$|transparent/.test(c)) return c;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")].filter(e =>
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) &&
    !["SCRIPT", "STYLE", "TITLE", "DESC", "title", "desc", "OPTION"].includes(e.tagName) &&
    !e.closest(".js-plotly-plot") && e.getClientRects().length
  ).map(e => {
    const svg = e instanceof SVGElement, style = getComputedStyle(e);
    return [e.textContent.trim().slice(0, 40), svg ? style.fill : style.color, solid(e)];
  });
}"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second site of a folder, so that something has changed."""
    folder = tmp_path_factory.mktemp("chromium") / "project"
    stale = invented_run(name="old", shapes=((512, 512, 512),), recipes=("bf16",), source="0" * 64)
    runs = {**small_runs(), "runs/old": stale}
    make(folder, runs, calibration=CALIBRATION, error=ERROR, verify=VERIFY)
    make(folder / "package", {}, EVIDENCE=EVIDENCE)
    make(folder, {"runs/gone": stale})
    site(folder, {**runs, "runs/gone": stale}, THEN)
    (folder / "runs/gone/plan.json").write_text("{")
    runs["runs/today"] = slower(runs["runs/today"], lambda i: (1.1, 0.9, 1.0)[i % 3])
    return site(folder, runs)


def luminance(colour: str) -> float:
    channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("size", SIZES)
def test_every_page_draws_fits_and_can_be_read(
    browser: Any,  # noqa: F811
    written: Path,
    size: str,
) -> None:
    width, height, touch = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch
    )
    context.set_default_timeout(1e3 * PATIENCE_S)
    for file in (*PAGES, RUN_PAGE):
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto((written / file).as_uri())
        if file == RUN_PAGE:
            page.wait_for_selector(".js-plotly-plot .main-svg")
            assert page.locator(".js-plotly-plot").count() == 8
        assert said == []
        assert {url for url in asked if not url.startswith(written.as_uri())} == set()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, file
        behinds = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            texts = page.evaluate(TEXTS)
            assert len(texts) > 10
            for text, ink, behind in texts:
                assert contrast(ink, behind) >= CONTRAST, (file, scheme, text, ink, behind)
            behinds.append(luminance(texts[0][2]))
        assert behinds[0] > 0.9, "light"
        assert behinds[1] < 0.1, "dark"
        page.close()
    context.close()


def test_plots_are_drawn_have_words_and_hold_their_numbers(
    browser: Any,  # noqa: F811
    written: Path,
) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(1e3 * PATIENCE_S)
    drawn = 0
    for file in PAGES:
        page = context.new_page()
        page.goto((written / file).as_uri())
        for chart in page.locator(".chart").all():
            drawn += 1
            svg = chart.locator("svg")
            box = svg.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert svg.locator("title").first.text_content()
            assert len(svg.locator("desc").text_content().split()) > 5
            ids = svg.get_attribute("aria-labelledby").split()
            assert all(page.locator(f"[id='{one}']").count() == 1 for one in ids)
            with page.expect_download() as download:
                chart.locator("a[download]").click()
            assert download.value.suggested_filename.endswith(".csv")
            rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
            marks = svg.locator("circle").count() or svg.locator("rect").count()
            assert len(rows) == marks > 0, file
        page.close()
    # Two of formats, three of energies, two of kernels, one of predictions, one of changes.
    assert drawn == 9
    context.close()


def test_a_report_holds_the_numbers_of_its_plots(
    browser: Any,  # noqa: F811
    written: Path,
) -> None:
    page = browser.new_page()
    page.set_default_timeout(1e3 * PATIENCE_S)
    page.goto((written / RUN_PAGE).as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    plotted = page.evaluate(
        "document.getElementById('predicted-against-measured').data"
        ".filter(t => t.mode === 'markers').flatMap(t => t.y)"
    )
    link = page.locator("a[download='predicted-against-measured.csv']").get_attribute("href")
    text = base64.b64decode(link.partition("base64,")[2]).decode()
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["series"].startswith("triton")]
    assert [float(row["y"]) for row in rows] == plotted
    assert {row["y is"] for row in rows} == {"measured, us"}
    page.close()


def test_the_pages_lead_to_one_another(
    browser: Any,  # noqa: F811
    written: Path,
) -> None:
    page = browser.new_page()
    page.set_default_timeout(1e3 * PATIENCE_S)
    page.goto((written / "index.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "page"
    page.click("text=runs/today")
    assert page.url == (written / RUN_PAGE).as_uri()
    for file, title in PAGES.items():
        page.click(f"nav.pages >> text='{title}'")
        assert page.url == (written / file).as_uri()
        assert page.locator("nav.pages [aria-current=page]").text_content() == title
    page.close()


@pytest.mark.parametrize(
    "ys", [(12.31, 12.55), (0.0001, 0.0002), (1234567.0, 1234999.0), (1.0, 9.0)]
)
def test_numbers_of_an_axis_do_not_lie_on_its_title(
    browser: Any,  # noqa: F811
    tmp_path: Path,
    ys: tuple[float, float],
) -> None:
    points = [Point(x=place, y=y) for place, y in enumerate(ys, 30)]
    drawn = scatter(
        [Marks(name="a", colour="#123456", points=points)], x_title="x", y_title="simulated us"
    )
    page = browser.new_page()
    page.set_content(f'<div style="width:360px;font-family:sans-serif">{drawn}</div>')
    boxes = page.evaluate(
        "[...document.querySelectorAll('text')].map(e => e.getBoundingClientRect())"
        ".map(r => [r.left, r.top, r.right, r.bottom])"
    )
    page.close()
    assert len(boxes) > 4
    for place, one in enumerate(boxes):
        for other in boxes[:place]:
            apart = one[0] >= other[2] or other[0] >= one[2]
            assert apart or one[1] >= other[3] or other[1] >= one[3], (one, other)
