"""What papers claim beside what was measured and predicted here (docs/papers.md)."""

from bench.papers.claims import CLAIMS, Claim
from bench.papers.page import NOT_YET, PAGE, page

__all__ = ["CLAIMS", "NOT_YET", "PAGE", "Claim", "page"]
