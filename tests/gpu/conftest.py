"""Fixtures of tests on a GPU."""

from huge_tensors import huge

__all__ = ["huge"]
