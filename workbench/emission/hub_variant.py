"""The built form of a Hugging Face kernel: ``build/torch-cuda`` with metadata and digests.

The library's builder needs Nix; what it does for a kernel without compiled code is this: copy the
module, add ``_ops.py``, and write ``metadata.json``.  The digests are those that the library
computes: base64 of SHA-256 for every file but the metadata, its signature and byte code.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["VARIANT", "metadata", "variant_digests", "variant_id"]

VARIANT = "build/torch-cuda"

#: Not hashed at the top of a variant, because hashes stand in the first and sign it in the second.
_METADATA = frozenset({"metadata.json", "metadata.json.sigstore"})


def variant_digests(folder: Path) -> dict[str, str]:
    """Base64 of SHA-256 by relative path, as ``metadata.json`` lists them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        code = "__pycache__" in relative.parts or path.suffix == ".pyc"
        if path.is_file() and not code and relative.as_posix() not in _METADATA:
            digest = hashlib.sha256(path.read_bytes()).digest()
            found[relative.as_posix()] = base64.b64encode(digest).decode("ascii")
    return found


def variant_id(name: str, digests: dict[str, str]) -> str:
    """The name that the module is imported under: like the builder's, of the content.

    Args:
        name: of the kernel, with dashes.
        digests: of the variant.
    """
    content = json.dumps(digests, sort_keys=True).encode()
    return f"_{name.replace('-', '_')}_cuda_{hashlib.sha256(content).hexdigest()[:7]}"


def metadata(
    name: str, version: int, digests: dict[str, str], capabilities: Sequence[str]
) -> dict[str, Any]:
    """The content of ``metadata.json``; without a provenance, which names the builder."""
    return {
        "name": name,
        "id": variant_id(name, digests),
        "version": version,
        "license": "Apache-2.0",
        "python-depends": [],
        "kernel-depends": [],
        "backend": {"type": "cuda", "archs": list(capabilities)},
        "digest": {"algorithm": "sha256", "files": digests},
    }
