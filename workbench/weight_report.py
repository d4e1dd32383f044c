"""What every format does to a checkpoint's weights: errors by layer, formats over all layers."""

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sim.error import TensorError
from tiles.formats import TensorFormat
from workbench.checkpoint import StoredTensor

__all__ = [
    "FormatError",
    "LayerErrors",
    "LayerStatus",
    "RankedFormat",
    "WeightReport",
    "error_dict",
]


class LayerStatus(Enum):
    """What became of a tensor."""

    RANKED = "ranked"  #: every format has an error or a reason of its own
    SKIPPED = "skipped"  #: no matrix of floating-point weights
    FAILED = "failed"  #: a matrix whose errors cannot be told


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatError:
    """One format on one layer."""

    format: TensorFormat
    error: TensorError | None  #: ``None``: :attr:`reason` says why
    storage_bytes: int  #: packed codes and scales
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerErrors:
    """One tensor of the checkpoint under every format.

    Stacks [experts, N, K] are read as (experts · N, K), weights of convolutions as (out, rest).
    """

    tensor: StoredTensor
    status: LayerStatus
    reason: str = ""
    errors: tuple[FormatError, ...] = ()

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.tensor.shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping; an SQNR of ``null`` beside no reason is that of no error at all."""
        return {
            "name": self.tensor.name,
            "file": self.tensor.file.name,
            "dtype": self.tensor.dtype,
            "shape": list(self.tensor.shape),
            "matrix": None if self.tensor.refusal else [self.tensor.rows, self.tensor.cols],
            "status": self.status.value,
            "reason": self.reason,
            "scales": None if self.tensor.scales is None else self.tensor.scales.name,
            "note": self.tensor.note,
            "formats": [
                {
                    "format": str(one.format),
                    "bits_per_element": 8 * one.storage_bytes / self.elements,
                    "reason": one.reason,
                    "error": None if one.error is None else error_dict(one.error),
                }
                for one in self.errors
            ],
        }


def error_dict(error: TensorError) -> dict[str, Any]:
    """JSON-ready mapping of a tensor's error; an SQNR of ``null`` is that of no error at all."""
    return {
        "sqnr_db": error.sqnr_db if math.isfinite(error.sqnr_db) else None,
        "relative_max": error.relative_max,
        "relative_mean": error.relative_mean,
        "clipped_share": error.clipped_share,
        "flushed_share": error.flushed_share,
        "count": error.count,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedFormat:
    """A format over all layers that it has an error on."""

    format: TensorFormat
    layers: int
    best: int  #: layers on which no other format has a higher SQNR
    bits_per_element: float
    sqnr_db: float  #: of the layers' mean noise-to-signal ratio, each layer alike; may be infinite
    worst_db: float
    worst_layer: str  #: a name from the file: escape it before showing it


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightReport:
    """Every tensor of a checkpoint, and the formats over all of them."""

    path: Path
    formats: tuple[TensorFormat, ...]
    layers: tuple[LayerErrors, ...]
    seed: int

    @property
    def ranked(self) -> list[LayerErrors]:
        """The layers that have errors."""
        return [layer for layer in self.layers if layer.status is LayerStatus.RANKED]

    def ranking(self) -> list[RankedFormat]:
        """Formats that have an error on some layer, best first."""
        rows = [row for fmt in self.formats if (row := self._over_layers(fmt)) is not None]
        return sorted(rows, key=lambda row: (-row.layers, -row.sqnr_db, row.bits_per_element))

    def _over_layers(self, fmt: TensorFormat) -> RankedFormat | None:
        found = [
            (layer, one.error, one.storage_bytes)
            for layer in self.ranked
            for one in layer.errors
            if one.format == fmt and one.error is not None
        ]
        if not found:
            return None
        worst, error, _ = min(found, key=lambda item: item[1].sqnr_db)
        noise = sum(10 ** (-e.sqnr_db / 10) for _, e, _ in found) / len(found)
        elements = sum(layer.elements for layer, _, _ in found)
        return RankedFormat(
            format=fmt,
            layers=len(found),
            best=sum(e.sqnr_db >= _best_db(layer) for layer, e, _ in found),
            bits_per_element=8 * sum(size for _, _, size in found) / elements,
            sqnr_db=-10 * math.log10(noise) if noise > 0 else math.inf,
            worst_db=error.sqnr_db,
            worst_layer=worst.tensor.name,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, a part of ``ErrorReport``'s."""
        return {
            "checkpoint": str(self.path),
            "formats": [str(fmt) for fmt in self.formats],
            "ranking": [
                {
                    "format": str(row.format),
                    "layers": row.layers,
                    "best": row.best,
                    "bits_per_element": row.bits_per_element,
                    "sqnr_db": row.sqnr_db if math.isfinite(row.sqnr_db) else None,
                    "worst_sqnr_db": row.worst_db if math.isfinite(row.worst_db) else None,
                    "worst_layer": row.worst_layer,
                }
                for row in self.ranking()
            ],
            "layers": [layer.to_dict() for layer in self.layers],
        }


def _best_db(layer: LayerErrors) -> float:
    return max(one.error.sqnr_db for one in layer.errors if one.error is not None)
