"""The site of a project folder: many runs, packages and answers on a few linked pages."""

from workbench.reporting.site.contents import is_run_folder
from workbench.reporting.site.writer import write_site

__all__ = ["is_run_folder", "write_site"]
