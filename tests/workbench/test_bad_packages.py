"""Packages and wheels that were tampered with are refused in one line."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Call, is_mistake

pytestmark = pytest.mark.usefixtures("empty_folder")


def _edit_evidence(**changes: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "EVIDENCE.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


PACKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (lambda p: os.mkfifo(p / "pipe"), "pipe is no plain file"),
    "link": (lambda p: (p / "link").symlink_to("/etc"), "link is a link"),
    "evidence nested": (
        lambda p: (p / "EVIDENCE.json").write_text("[" * 200_000),
        "emit the package again",
    ),
    "no files": (_edit_evidence(files=None), "does not carry the schema"),
    "files of lists": (_edit_evidence(files={"a": [1]}), "does not carry the schema"),
    "templates of text": (_edit_evidence(templates={"a": "b"}), "does not carry the schema"),
}


@pytest.mark.parametrize(("edit", "says"), PACKAGES.values(), ids=PACKAGES.keys())
def test_a_tampered_package_is_refused(
    edit: Callable[[Path], object], says: str, emitted_package: Path, tmp_path: Path, call: Call
) -> None:
    edit(Path(shutil.copytree(emitted_package, tmp_path / "package")))
    is_mistake(call("verify", "package", "--device", "cpu"), says)


def _wheel(**changes: int) -> bytes:
    """A one-file wheel with single bytes of its headers changed: 6 flags, 8 method."""
    path = Path("made.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/EVIDENCE.json", "{}")
    data = bytearray(path.read_bytes())
    path.unlink()
    central = data.find(b"PK\x01\x02")
    for name, value in changes.items():
        at = {"flags": 6, "method": 8}[name]
        data[at] = data[central + at + 2] = value
    return bytes(data)


@pytest.mark.parametrize("changes", [{"flags": 1}, {"method": 99}, {"method": 8}])
def test_a_wheel_packed_strangely_is_refused(changes: dict[str, int], call: Call) -> None:
    Path("x.whl").write_bytes(_wheel(**changes))
    is_mistake(call("verify", "x.whl"), "not a wheel that can be read")


def test_a_wheel_that_unpacks_to_gigabytes_is_refused(call: Call) -> None:
    block = bytes(2**25)
    with zipfile.ZipFile("x.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for index in range(9):
            archive.writestr(f"a/{index}", block)
    is_mistake(call("verify", "x.whl"), "too large for such a package")
