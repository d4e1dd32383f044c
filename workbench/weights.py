"""Which format keeps a checkpoint's weights best, layer by layer, in bounded memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.error import BeyondRangeError, ErrorSums, Rounder, numpy_rounder
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
from workbench.weight_report import FormatError, LayerErrors, LayerStatus, WeightReport

__all__ = ["candidate_formats", "rank_weights"]

F32 = NDArray[np.float32]

#: Elements of a slice, 16 MiB in fp32, where the rows are short enough for it.
SLICE_ELEMENTS = 2**22
#: Elements that are held at once at most: of a slice, and of a matrix whose scales need it whole.
HELD_ELEMENTS = 2**26


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
