"""What a file that is written and renamed may take the place of."""

from pathlib import Path

__all__ = ["check_regular"]


def check_regular(path: Path) -> None:
    """Refuse a device, a pipe or a socket: a rename over it would remove it for everyone.

    A link counts as what it leads to.  A folder is left to the rename, which fails on it.

    Raises:
        ValueError: the path exists and is neither a regular file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path}: is not a regular file: choose another output")
