"""Digests by which a calibration knows the kernels and the cost model that it was made with.

What a kernel's source consists of is found by parsing it, which takes a tenth of a second; so the
files' names are stored with the digest, and comparing reads them alone.  A file that joins later is
named by one of them, whose content has then changed.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tiles.kernels.closure import template_closure

__all__ = ["digest_of", "kernel_files", "model_digest"]

_MODEL = Path(__file__).parents[1]
#: Modules of ``sim`` that no predicted time passes through.
_APART = frozenset({"__init__.py", "gpu_file.py", "interval.py", "measured.py", "roofline.py"})


def kernel_files(template: Path) -> tuple[str, ...]:
    """Names of the files that a kernel's source consists of, all in the template's folder.

    Raises:
        ValueError: the template is no template.
    """
    return tuple(path.name for path in template_closure(template))


@cache
def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def digest_of(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of some files of a folder; "" when one of them is not there."""
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        if not path.is_file():
            return ""
        digest.update(name.encode() + b"\0" + _content(path))
    return digest.hexdigest()


@cache
def model_digest() -> str:
    """SHA-256 of the cost model: fitted values belong to the formulas that they were fitted in."""
    files = [path for path in _MODEL.glob("*.py") if path.name not in _APART]
    files += _MODEL.glob("parameters/*.py")
    files.append(Path(__file__).with_name("features.py"))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + _content(path))
    return digest.hexdigest()
