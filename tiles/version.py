"""The workbench's version, written here alone: ``pyproject.toml`` and measurements read it."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
