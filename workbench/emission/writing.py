"""Writing what a target emits: a folder that appears complete or not at all, and its files."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tiles.kernels import kernel
from tiles.kernels.closure import template_closure
from workbench.emission.winners import TunedEntry, families_of, template_folder
from workbench.outfile import check_name, unwritable

__all__ = ["check_absent", "copy_file", "copy_templates", "new_folder", "write_text"]


def check_absent(out: Path) -> None:
    """Refuse a name that something has, a dangling link included.

    Raises:
        ValueError: it exists, or holds control characters.
    """
    check_name(out)
    with unwritable(out):
        exists = os.path.lexists(out)
    if exists:
        raise ValueError(f"{out} exists and is left as it is: choose another output folder")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to be filled; it becomes ``out`` when the block ends, and is gone when it fails.

    It lies beside ``out``, so that it is renamed and not copied.

    Raises:
        ValueError: ``out`` cannot be written, or appeared meanwhile.
    """
    with unwritable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".workbench-", dir=out.parent) as temporary:
            folder = Path(temporary) / "package"
            folder.mkdir()
            yield folder
            if os.path.lexists(out):
                raise ValueError(
                    f"{out} appeared meanwhile and is left as it is: emit again elsewhere"
                )
            folder.rename(out)


def copy_file(source: Path, target: Path) -> None:
    """Byte for byte; missing folders are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """UTF-8 with plain line ends; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def copy_templates(entries: Sequence[TunedEntry], folder: Path, module: str) -> dict[str, str]:
    """Copy the templates that the entries launch, with their closures, byte for byte.

    Args:
        entries: what ships.
        folder: of the package.
        module: of the Python module, relative to it.
    Returns:
        Kernel family by path of each file.
    """
    templates = {}
    for name in sorted({family for entry in entries for family in families_of(entry)}):
        family = kernel(name)
        for source in template_closure(family.template):
            path = f"{module}/kernels/{template_folder(family)}/{source.name}"
            copy_file(source, folder / path)
            templates[path] = family.name
    return templates
