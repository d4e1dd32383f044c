"""A rename never takes the place of a device or a pipe."""

import os
from pathlib import Path

import pytest

from tiles.regular_file import check_regular


def test_devices_and_pipes_and_links_to_them_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (Path("/dev/null"), tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(ValueError, match=f"{path}: is not a regular file: choose another out"):
            check_regular(path)


def test_files_and_free_names_pass(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "free", "dangling", "free/below", "."):
        check_regular(tmp_path / name)
