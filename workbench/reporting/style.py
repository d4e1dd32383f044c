"""The page's style sheet and script, written into the page as they are."""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #59636e; --page: #ffffff;
  --card: #f6f8fa; --line: #d1d9e0; --measured: #1a7f4b; --simulated: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b0; --page: #0f1318;
  --card: #171c23; --line: #313943; --measured: #4cc38a; --simulated: #f0b64f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2rem) 3rem; max-width: 72rem;
  background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.25rem; }
p { margin: 0.4rem 0; max-width: 46rem; } .note { color: var(--soft); font-size: 0.9rem; }
.banner { border: 1px solid; border-left-width: 6px; border-radius: 6px; padding: 0.6rem 0.9rem;
  margin: 0.8rem 0; max-width: none; } .banner b { letter-spacing: 0.04em; }
.measured { color: var(--measured); } .simulated { color: var(--simulated); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr));
  gap: 0.4rem 1.2rem; margin: 0.8rem 0; }
dt { color: var(--soft); font-size: 0.8rem; } dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-size: 0.9rem; } a { color: inherit; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1rem; font-size: 0.85rem;
  margin: 0.4rem 0; padding: 0; list-style: none; }
.legend i { display: inline-block; width: 0.8rem; height: 0.8rem; margin-right: 0.4rem;
  border-radius: 2px; vertical-align: -1px; }
.plot { width: 100%; min-width: 0; } .wide { overflow-x: auto; }
select { font: inherit; font-size: 0.9rem; max-width: 100%; padding: 0.3rem; color: var(--ink);
  background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
.scroll { overflow: auto; max-height: 36rem; border: 1px solid var(--line); border-radius: 6px;
  margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.85rem; width: 100%; }
th, td { padding: 0.3rem 0.6rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); } tbody tr:last-child td { border-bottom: 0; }
thead th { background: var(--card); position: sticky; top: 0; vertical-align: bottom; }
th.number { white-space: normal; min-width: 5rem; }
td.number, th.number { text-align: right;
  font-variant-numeric: tabular-nums; } td.wrap { white-space: normal; min-width: 16rem; }
code { font-size: 0.8rem; } details { margin: 0.8rem 0; } summary { cursor: pointer; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid; }
.pages { background: var(--page); padding: 0.5rem 0; border-bottom: 1px solid var(--line); }
@media (min-width: 40.1rem) { .pages { position: sticky; top: 0; z-index: 2; }
  .pages ~ main section { scroll-margin-top: 3rem; } }
 .pages a { text-decoration: none; color: var(--soft); }
.pages a:hover, .pages a[aria-current] { color: var(--ink); text-decoration: underline;
  text-underline-offset: 0.35em; text-decoration-thickness: 2px; }
.contents { margin-top: 0.8rem; } footer { margin-top: 3rem; }
.badge { font-size: 0.75rem; font-weight: 600; border: 1px solid; border-radius: 1rem;
  padding: 0.05rem 0.5rem; white-space: nowrap; }
@media (max-width: 40rem) { .cards { border: 0; max-height: none; }
  .cards table, .cards tbody, .cards tr, .cards td { display: block; }
  .cards thead { display: none; }
  .cards tr { border: 1px solid var(--line); border-radius: 8px; padding: 0.4rem 0.7rem;
    margin-bottom: 0.6rem; }
  .cards td { display: flex; justify-content: space-between; gap: 1rem; border: 0;
    padding: 0.1rem 0; line-height: 1.35; white-space: normal; overflow-wrap: anywhere;
    text-align: right; }
  .cards td::before { content: attr(data-of); color: var(--soft); text-align: left;
    flex: 0 0 auto; font-weight: 400; }
  .cards td:first-child { font-weight: 600; display: block; text-align: left; }
  .cards td:first-child::before { content: none; }
  .cards td.wrap, .cards td.code { display: block; text-align: left; }
  .cards td.wrap::before, .cards td.code::before { display: block; } }
"""

# Colours of text and grid follow the page's scheme, also when it changes while the page is open.
SCRIPT = """
(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent).figures;
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var coarse = window.matchMedia("(pointer: coarse)");
  function axis(own, ink, grid) {
    return Object.assign({ gridcolor: grid, zerolinecolor: grid, linecolor: grid }, own, {
      title: Object.assign({ font: { size: 12 }, standoff: 8 }, own.title) });
  }
  function layout(figure, own) {
    var ink = dark.matches ? "#e6e9ee" : "#1c2128", grid = dark.matches ? "#313943" : "#dfe4ea";
    return Object.assign({ height: figure.height, margin: { l: 10, r: 16, t: 24, b: 10 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: ink },
      hoverlabel: { font: { size: 12 } }, dragmode: coarse.matches ? false : "zoom",
      showlegend: false }, own,
      { xaxis: axis(own.xaxis, ink, grid), yaxis: axis(own.yaxis, ink, grid) });
  }
  // The toolbar needs a pointer that can hover; on a phone it would cover the plot.
  var settings = { responsive: true, displaylogo: false,
    displayModeBar: coarse.matches ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  function draw(figure) {
    var menu = document.getElementById(figure.key + "-view");
    var view = figure.views[menu ? menu.selectedIndex : 0];
    return Plotly.react(figure.key, view.data, layout(figure, view.layout), settings);
  }
  figures.forEach(function (figure) {
    draw(figure);
    var menu = document.getElementById(figure.key + "-view");
    if (menu) { menu.addEventListener("change", function () { draw(figure); }); }
  });
  dark.addEventListener("change", function () { figures.forEach(draw); });
})();
"""
