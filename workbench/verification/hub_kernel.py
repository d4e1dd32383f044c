"""Opening a Hugging Face kernel that emit wrote, and holding every file against its records."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.emission.evidence import EVIDENCE, digests, read_evidence
from workbench.emission.hub_kernel import check_module
from workbench.emission.hub_variant import VARIANT, variant_digests, variant_id
from workbench.emission.naming import check_package_name
from workbench.verification.package import MAX_FILE_BYTES, check_files

__all__ = ["HubKernel", "is_hub_kernel", "open_hub_kernel"]

#: What the built form has beyond the sources.
_BUILT = frozenset({"_ops.py", "metadata.json"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HubKernel:
    """A kernel whose files are those of its evidence, and of its metadata."""

    name: str  #: under which its built form is imported
    path: Path
    evidence: Mapping[str, Any]

    @property
    def installable(self) -> Path:
        """The built form, a folder."""
        return self.path / VARIANT

    @property
    def module_files(self) -> dict[str, str]:
        """Digest by path of the built form's files, as if it were installed under its name."""
        files: Mapping[str, str] = self.evidence["files"]
        return {
            f"{self.name}/{path.removeprefix(f'{VARIANT}/')}": digest
            for path, digest in files.items()
            if path.startswith(f"{VARIANT}/")
        }


def is_hub_kernel(path: Path) -> bool:
    """Whether a folder has the layout of such kernels."""
    return (path / "build.toml").is_file()


def open_hub_kernel(path: Path) -> HubKernel:
    """Open a folder, and check every file in it.

    Raises:
        ValueError: not a kernel that emit wrote, or one that was changed; the message names the
            file.
    """
    record = path / EVIDENCE
    if not record.is_file():
        raise ValueError(f"{path} holds no {EVIDENCE}: it is not a folder that emit wrote")
    if record.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{record} is too large for such a package: emit it again")
    evidence = read_evidence(record.read_text(encoding="utf-8", errors="replace"), str(record))
    module = path / "torch-ext" / check_package_name(str(evidence["package"]))
    check_files(digests(path), evidence["files"], str(path))
    variant = path / VARIANT
    found = variant_digests(variant)
    metadata = _metadata(variant / "metadata.json")
    recorded = metadata["digest"]["files"]
    for name in sorted(found.keys() | recorded.keys()):
        if found.get(name) != recorded.get(name):
            raise ValueError(
                f"{variant}: {name} is not what metadata.json recorded: it was edited after "
                "emission, emit again"
            )
    expected = variant_id(str(metadata["name"]), found)
    if metadata["id"] != expected:
        raise ValueError(
            f"{variant}/metadata.json: id {str(metadata['id'])[:60]!r} is not that of its files, "
            f"{expected}: emit the kernel again"
        )
    sources = variant_digests(module)
    if sources != {name: digest for name, digest in found.items() if name not in _BUILT}:
        raise ValueError(f"{variant} was not built from {module}: emit the kernel again")
    check_module(module)
    return HubKernel(name=expected, path=path, evidence=evidence)


def _metadata(path: Path) -> dict[str, Any]:
    """``metadata.json``, with what is relied on here."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): emit the kernel again") from None
    digest = data.get("digest") if isinstance(data, dict) else None
    whole = (
        isinstance(digest, dict)
        and isinstance(digest.get("files"), dict)
        and digest.get("algorithm") == "sha256"
        and {"name", "id"} <= data.keys()
    )
    if not whole:
        raise ValueError(f"{path} lacks name, id or SHA-256 digests: emit the kernel again")
    return dict(data)
