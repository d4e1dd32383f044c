"""The workbench's version; :mod:`tiles.version` holds it, where every package finds it."""

from tiles.version import VERSION, workbench_version

__all__ = ["VERSION", "workbench_version"]
