"""Folders that conversions read and write: what is not trusted, what fails half way, what stays."""

import os
from pathlib import Path
from typing import Any

import pytest
from tuned_folders import BODY, ENTRY, FP8, FP8_SPACED, clean, texts, write

from workbench.deploy.convert import convert


def broken(folder: Path) -> None:
    write(folder, {FP8: "{"})


def out_of_it(folder: Path) -> None:
    (folder / "N=1.json").symlink_to("/etc/hostname")


def dotted(folder: Path) -> None:
    write(folder, {"N=1..json": "{}"})


def giant(folder: Path) -> None:
    write(folder, {"giant.json": b" " * 2_000_001})


def stray(folder: Path) -> None:
    write(folder, {FP8: {**BODY, "comment": "mine"}})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken, r"not JSON: .*\[json.broken\]; `workbench lint` lists all"),
        (out_of_it, r"a link that leads out of the folder: copy the file in \[path.link\]"),
        (dotted, r"two dots or control characters: rename it \[path.dots\]"),
        (giant, r"more than 2000000 bytes.*\[path.size\]"),
        (stray, r"key 'comment' is no integer.*\[body.key\]"),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_refused_and_nothing_written(
    spoil: Any, message: str, tmp_path: Path
) -> None:
    source = clean(tmp_path / "from", "vllm-linear")
    spoil(source)
    with pytest.raises(ValueError, match=message) as caught:
        convert(source, "sglang-linear", tmp_path / "to")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()


def test_a_read_only_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clean(tmp_path / "from", "vllm-linear")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="cannot be written: read only"):
        convert(source, "sglang-linear", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_disk_that_fills_up_leaves_no_half_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = clean(tmp_path / "from", "vllm-linear")
    allowed, chmod = iter([True]), os.chmod

    def filling(*arguments: Any, **options: Any) -> None:
        if next(allowed, False):
            chmod(*arguments, **options)
        else:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", filling)
    with pytest.raises(ValueError, match="No space left on device"):
        convert(source, "sglang-linear", tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_foreign_files_in_the_output_are_kept(tmp_path: Path) -> None:
    source = clean(tmp_path / "from", "vllm-linear")
    write(tmp_path / "to", {FP8_SPACED: {"1": ENTRY}})
    before = texts(tmp_path / "to")
    with pytest.raises(ValueError, match="is there and was not written by us"):
        convert(source, "sglang-linear", tmp_path / "to")
    assert texts(tmp_path / "to") == before
    with pytest.raises(ValueError, match="is the folder that is read: choose another output"):
        convert(source, "sglang-linear", source)
