"""Building the wheel of an emitted project, the same bytes every time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["build_wheel"]

#: 2020-01-01, the time that every file of a wheel carries.
SOURCE_DATE_EPOCH = "1577836800"


@contextlib.contextmanager
def _fixed_time() -> Iterator[None]:
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = SOURCE_DATE_EPOCH
    try:
        yield
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


def build_wheel(project: Path) -> Path:
    """Build ``<project>/dist/*.whl`` in this process, without network or isolation.

    Args:
        project: folder with the ``pyproject.toml``.
    Returns:
        Path of the wheel; an older one of the same name is replaced.
    """
    # flit's PEP 517 hooks read the current folder; this is what they call, with a path.
    from flit_core.wheel import make_wheel_in

    dist = project / "dist"
    dist.mkdir(exist_ok=True)
    with _fixed_time():
        wheel: Path = make_wheel_in((project / "pyproject.toml").resolve(), dist).file
    return wheel
