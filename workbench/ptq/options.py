"""What a quantisation was asked for beside recipe and scheme: enough to ask for it again."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from workbench.ptq.calibrate import Batch

__all__ = ["Asked", "digest_of_batches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Arguments of :func:`workbench.ptq.quantize`, as a record keeps them."""

    keep: tuple[str, ...] = ()
    criterion: float | None = None  #: ``None``: nothing scored it
    calibration_batches: int = 0
    calibration_digest: str = ""  #: of names, types, shapes and bytes, SHA-256, 16 digits
    backend: str = ""  #: that was given; empty: the device's own

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"keep": list(self.keep)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Asked":
        """Read what :meth:`to_dict` wrote.

        Raises:
            TypeError: an unknown field.
        """
        return cls(**data | {"keep": tuple(data.get("keep", ()))})


def digest_of_batches(batches: Iterable[Batch]) -> str:
    """SHA-256 of calibration data, the first 16 digits; empty where there is none."""
    seen, digest = False, hashlib.sha256()
    for batch in batches:
        seen = True
        named = batch.items() if isinstance(batch, dict) else enumerate(batch)
        for name, value in named:
            if not isinstance(value, torch.Tensor):
                digest.update(repr((name, value)).encode())
                continue
            digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
            bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(bits.numpy().tobytes())
    return digest.hexdigest()[:16] if seen else ""
