"""Opening an emitted package, and holding every file of it against EVIDENCE.json."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.emission.evidence import EVIDENCE, digest, digests, read_evidence
from workbench.emission.naming import check_package_name

__all__ = ["Package", "check_files", "installed_digests", "open_package"]

#: No file of an emitted package comes near this; a larger one is not unpacked.
MAX_FILE_BYTES = 2**26
#: All files of a wheel together.
MAX_WHEEL_BYTES = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An emitted package whose files are those of its evidence."""

    name: str
    path: Path  #: what the caller named: a folder or a wheel
    wheel: Path
    evidence: Mapping[str, Any]
    evidence_text: str

    @property
    def installable(self) -> Path:
        """The wheel."""
        return self.wheel

    @property
    def module_files(self) -> dict[str, str]:
        """Digest by path of the module's files, relative to where it is installed."""
        files: Mapping[str, str] = self.evidence["files"]
        module = {k.removeprefix("src/"): v for k, v in files.items() if k.startswith("src/")}
        return module | {f"{self.name}/{EVIDENCE}": digest(self.evidence_text.encode())}


def check_files(found: Mapping[str, str], expected: Mapping[str, str], where: str) -> None:
    """Compare digests.

    Raises:
        ValueError: a file is missing, edited or extra; the message names it.
    """
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"{where}: {name} is missing; emit the package again")
        if name not in expected:
            raise ValueError(f"{where}: {name} is not in {EVIDENCE}: remove it or emit again")
        if found[name] != expected[name]:
            raise ValueError(
                f"{where}: {name} is not what {EVIDENCE} recorded (SHA-256 differs): "
                "it was edited after emission, emit again"
            )


def _parse(text: str, where: str) -> tuple[str, dict[str, Any]]:
    evidence = read_evidence(text, where)
    return check_package_name(str(evidence["package"])), evidence


def _wheel_files(wheel: Path) -> dict[str, bytes]:
    """Content by path of everything in a wheel but its metadata."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            files: dict[str, bytes] = {}
            room = MAX_WHEEL_BYTES
            for info in archive.infolist():
                parts = info.filename.split("/")
                if info.filename.startswith("/") or ".." in parts or "\\" in info.filename:
                    raise ValueError(
                        f"{wheel}: {info.filename!r} leads out of the wheel: do not install it"
                    )
                room -= info.file_size
                if info.file_size > MAX_FILE_BYTES or room < 0:
                    raise ValueError(
                        f"{wheel}: {info.filename} is too large for such a package: emit it again"
                    )
                if info.filename in files:
                    raise ValueError(f"{wheel}: {info.filename} is in it twice: emit it again")
                if not info.is_dir() and not parts[0].endswith(".dist-info"):
                    files[info.filename] = archive.read(info)
            return files
    # RuntimeError: encrypted, or packed in an unknown way.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{wheel} is not a wheel that can be read ({error}): "
            "name an emitted folder or its wheel"
        ) from None


def _open_wheel(path: Path, wheel: Path) -> Package:
    files = _wheel_files(wheel)
    found = [name for name in files if name.count("/") == 1 and name.endswith(f"/{EVIDENCE}")]
    if len(found) != 1:
        raise ValueError(f"{wheel} holds no {EVIDENCE}: it was not emitted by the workbench")
    text = files[found[0]].decode(errors="replace")
    name, evidence = _parse(text, f"{wheel}: {found[0]}")
    package = Package(name=name, path=path, wheel=wheel, evidence=evidence, evidence_text=text)
    check_files(
        {name: digest(data) for name, data in files.items()}, package.module_files, str(wheel)
    )
    return package


def open_package(path: Path) -> Package:
    """Open an emitted folder or a wheel, and check every file in it.

    Raises:
        ValueError: not an emitted package, or one that was changed; the message names the file.
    """
    if path.is_file():
        return _open_wheel(path, path)
    if not path.is_dir():
        what = "is no regular file" if path.exists() else "does not exist"
        raise ValueError(f"{path} {what}: name an emitted folder or a wheel")
    record = path / EVIDENCE
    if not record.is_file():
        raise ValueError(f"{path} holds no {EVIDENCE}: it is not a folder that emit wrote")
    if record.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{record} is too large for such a package: emit it again")
    text = record.read_text(encoding="utf-8", errors="replace")
    name, evidence = _parse(text, str(record))
    check_files(digests(path), evidence["files"], str(path))
    copy = path / "src" / name / EVIDENCE
    if not copy.is_file() or copy.read_text(encoding="utf-8", errors="replace") != text:
        raise ValueError(f"{copy} differs from {record}: emit the package again")
    wheels = sorted((path / "dist").glob("*.whl"))
    if len(wheels) != 1:
        raise ValueError(f"{path / 'dist'} must hold one wheel, found {len(wheels)}: emit again")
    package = _open_wheel(path, wheels[0])
    if package.evidence_text != text:
        raise ValueError(f"{wheels[0]} was not built from {path}: emit the package again")
    return package


def installed_digests(site: Path) -> dict[str, str]:
    """Digest by path of everything in a site folder but metadata and byte code."""
    found = {}
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site).as_posix()
        metadata = name.partition("/")[0].endswith(".dist-info")
        if path.is_file() and not metadata and "__pycache__" not in path.parts:
            found[name] = digest(path.read_bytes())
    return found
