"""What the pages of a site have beyond the style of a report: tiles, drawn plots."""

__all__ = ["SITE_STYLE"]

SITE_STYLE = """
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 0.6rem;
  margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.6rem 0.8rem; color: var(--soft); font-size: 0.85rem; }
.tiles b { display: block; color: var(--ink); font-size: 1.5rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; } .tiles a { display: block;
  text-decoration: none; } .tiles a:hover { text-decoration: underline; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0 2rem; } .chart { min-width: 0; }
.chart svg { display: block; width: 100%; max-width: 36rem; height: auto; }
.chart .ink { fill: var(--ink); } .chart .soft { fill: var(--soft); }
.chart .grid { stroke: var(--line); } .chart .mark { stroke: var(--soft); stroke-dasharray: 5 4; }
.chart .full circle { fill: var(--of); fill-opacity: 0.75; }
.chart .hollow circle { fill: var(--page); stroke: var(--of); stroke-width: 2; }
.chart .faint circle { fill-opacity: 0.2; stroke-opacity: 0.4; }
.chart .legend i { background: var(--of); border: 2px solid var(--of); border-radius: 50%; }
.chart .legend i.hollow { background: none; }
"""
