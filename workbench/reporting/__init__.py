"""One self-contained HTML page about a sweep."""

from workbench.reporting.page import write_report

__all__ = ["write_report"]
