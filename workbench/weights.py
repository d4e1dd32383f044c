"""Which format keeps a checkpoint's weights best, layer by layer, in bounded memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.error import BeyondRangeError, ErrorSums, Rounder, TensorError, numpy_rounder
from tiles.formats import Rounding, TensorFormat
from tiles.recipes import RECIPES
from workbench.checkpoint import Checkpoint, StoredTensor
from workbench.slices import (
    SLICE_ROWS,
    Extremes,
    add_slice,
    slices_alike,
    worker_threads,
)

__all__ = [
    "FormatError",
    "LayerErrors",
    "LayerStatus",
    "RankedFormat",
    "WeightReport",
    "candidate_formats",
    "error_dict",
    "printable",
    "rank_weights",
]

F32 = NDArray[np.float32]

#: Elements of a slice, 16 MiB in fp32, where the rows are short enough for it.
SLICE_ELEMENTS = 2**22
#: Elements that are held at once at most: of a slice, and of a matrix whose scales need it whole.
HELD_ELEMENTS = 2**26


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


def printable(name: str, width: int = 120) -> str:
    """A name from a file on one line, without what would steer a terminal; cut at ``width``."""
    cut = name if len(name) <= width else f"{name[: width - 1]}…"
    return cut if cut.isprintable() else repr(cut)[1:-1]


def candidate_formats() -> list[TensorFormat]:
    """Scaled weight formats of the recipes, each once, rounded to nearest."""
    found = dict.fromkeys(recipe.weight for recipe in RECIPES.values())
    return [
        fmt for fmt in found if fmt.scaling is not None and fmt.rounding is not Rounding.STOCHASTIC
    ]


def rank_weights(
    path: Path,
    formats: Sequence[TensorFormat],
    *,
    seed: int = 0,
    rounder: Rounder = numpy_rounder,
    progress: Callable[[StoredTensor, int, int], None] = lambda tensor, done, total: None,
) -> WeightReport:
    """Quantise every weight matrix of a checkpoint under every format.

    Args:
        path: a ``.safetensors`` file, its index, or a folder of either.
        formats: candidates; each once.
        seed: key of stochastic rounding.
        rounder: quantises and dequantises a matrix.
        progress: called with the tensor at hand and elements done and in all.
    Returns:
        Every tensor of the checkpoint with its errors, or with the reason why there are none.
    Raises:
        ValueError: the checkpoint cannot be read.
    """
    checkpoint = Checkpoint(path)
    total = sum(math.prod(t.shape) for t in checkpoint.tensors if not t.refusal)
    done = 0
    layers: list[LayerErrors] = []
    for tensor in checkpoint.tensors:
        progress(tensor, done, total)
        if tensor.refusal:
            layers.append(
                LayerErrors(tensor=tensor, status=LayerStatus.SKIPPED, reason=tensor.refusal)
            )
            continue
        layers.append(_layer(checkpoint, tensor, formats, seed, rounder))
        done += math.prod(tensor.shape)
    return WeightReport(path=path, formats=tuple(formats), layers=tuple(layers), seed=seed)


def _slice_rows(tensor: StoredTensor) -> int:
    """Rows of a slice: a multiple of ``SLICE_ROWS``, or all."""
    fitting = SLICE_ELEMENTS // tensor.cols // SLICE_ROWS * SLICE_ROWS
    return min(tensor.rows, max(SLICE_ROWS, fitting))


def _layer(
    checkpoint: Checkpoint,
    tensor: StoredTensor,
    formats: Sequence[TensorFormat],
    seed: int,
    rounder: Rounder,
) -> LayerErrors:
    rows = _slice_rows(tensor)
    if rows * tensor.cols > HELD_ELEMENTS:
        reason = f"{rows} rows of {tensor.cols} are over {HELD_ELEMENTS} elements at once"
        return LayerErrors(tensor=tensor, status=LayerStatus.FAILED, reason=reason)
    extremes = Extremes()
    for x in checkpoint.slices(tensor, rows):
        extremes.add(x)
    if not extremes.finite:
        reason = _not_finite(checkpoint.slices(tensor, rows), tensor.dtype)
        return LayerErrors(tensor=tensor, status=LayerStatus.FAILED, reason=reason)
    if extremes.zero:
        return LayerErrors(
            tensor=tensor, status=LayerStatus.SKIPPED, reason="all zero: no signal to compare with"
        )
    alike = [fmt for fmt in formats if slices_alike(fmt)]
    sums = {fmt: ErrorSums() for fmt in alike}
    refused: dict[TensorFormat, str] = {}
    with ThreadPoolExecutor(worker_threads()) as pool:
        for index, x in enumerate(checkpoint.slices(tensor, rows)):
            key = (seed + index) % 2**64
            added = {
                fmt: pool.submit(add_slice, sums[fmt], x, fmt, extremes, rounder, key)
                for fmt in alike
                if fmt not in refused
            }
            for fmt, one in added.items():
                try:
                    one.result()
                except BeyondRangeError:
                    refused[fmt] = _beyond_range(fmt, extremes)
    whole: F32 | None = None
    held = tensor.rows * tensor.cols <= HELD_ELEMENTS
    for fmt in formats:
        if fmt not in sums and held:
            if whole is None:
                whole = np.concatenate(list(checkpoint.slices(tensor, rows)))
            sums[fmt] = ErrorSums()
            try:
                sums[fmt].add(whole, rounder(whole, fmt, seed), fmt)
            except BeyondRangeError:
                refused[fmt] = _beyond_range(fmt, extremes)
    beyond = f"needs more than {HELD_ELEMENTS} elements at once"
    refused |= {fmt: beyond for fmt in formats if fmt not in sums}
    if len(refused) == len(formats):
        reason = "; ".join(dict.fromkeys(refused.values()))
        return LayerErrors(tensor=tensor, status=LayerStatus.FAILED, reason=reason)
    errors = tuple(
        FormatError(
            format=fmt,
            error=None if fmt in refused else sums[fmt].result(),
            storage_bytes=fmt.storage_bytes(tensor.rows, tensor.cols),
            reason=refused.get(fmt, ""),
        )
        for fmt in formats
    )
    return LayerErrors(tensor=tensor, status=LayerStatus.RANKED, errors=errors)


def _beyond_range(fmt: TensorFormat, extremes: Extremes) -> str:
    """Why a format has no error on finite weights."""
    assert extremes.low is not None
    assert extremes.high is not None
    largest = max(-float(extremes.low.min()), float(extremes.high.max()))
    mend = "" if fmt.saturate else ": name the format without +nosat, which clips instead"
    return f"weights up to {largest:.4g} are rounded to a NaN or an infinity by {fmt}{mend}"


def _not_finite(slices: Iterator[F32], dtype: str) -> str:
    """How many values are not finite, and where the first one lies."""
    count, before, first = 0, 0, (0, 0)
    for x in slices:
        bad = ~np.isfinite(x)
        if count == 0 and bad.any():
            row, col = np.argwhere(bad)[0]
            first = (before + int(row), int(col))
        count += int(np.count_nonzero(bad))
        before += len(x)
    beyond = " or beyond fp32" if dtype == "F64" else ""
    what = "1 value is" if count == 1 else f"{count} values are"
    return f"{what} NaN or infinite{beyond}, the first at row {first[0]}, column {first[1]}"
