"""Self-contained HTML pages: one about a sweep, one about a checkpoint's weights."""

from workbench.reporting.page import write_report
from workbench.reporting.weights import write_weights_page

__all__ = ["write_report", "write_weights_page"]
