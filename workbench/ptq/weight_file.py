"""A checkpoint's weights quantised without a model: tensor by tensor, in bounded memory."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiles.formats import TensorFormat, pack
from tiles.formats.packed import PackedMatrix
from tiles.formats.torch_codec import quantize_tensor
from tiles.intake import shown
from tiles.recipes import Recipe
from workbench.arguments import items_of
from workbench.checkpoint import Checkpoint, StoredTensor
from workbench.checkpoint_header import BITS
from workbench.ptq.formats import ptq_recipe
from workbench.ptq.storage import unfit
from workbench.ptq.tensor_file import RECORD, Entry, check_tensor_file, write_entries

__all__ = ["SCHEMA", "QuantizedWeights", "WeightEntry", "quantize_weights", "read_weights"]

SCHEMA = "tile-workbench/quantized-weights/1"
#: Rows that are read at a time.
_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightEntry:
    """What became of a tensor of the checkpoint."""

    name: str  #: comes from the file: escape it before showing it
    shape: tuple[int, ...]
    format: str  #: of its codes; its own type where it stays as it is
    quantized: bool
    reason: str  #: why it stays as it is; empty where it is quantised
    stored_bytes: int  #: codes and scales, or the tensor itself


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeights:
    """A checkpoint's weights in a recipe's format."""

    source: Path
    output: Path
    recipe: Recipe
    tensors: tuple[WeightEntry, ...]

    @property
    def quantized(self) -> list[WeightEntry]:
        """Those in codes."""
        return [t for t in self.tensors if t.quantized]

    def record(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": SCHEMA,
            "recipe": self.recipe.name,
            "weight": str(self.recipe.weight),
            "source": str(self.source),
            "output": str(self.output),
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "format": t.format,
                    "quantized": t.quantized,
                    "reason": t.reason,
                    "stored_bytes": t.stored_bytes,
                }
                for t in self.tensors
            ],
        }


def quantize_weights(
    source: str | Path,
    recipe: str | Recipe,
    output: str | Path,
    *,
    keep: str | Sequence[str] = (),
    progress: Callable[[StoredTensor, int, int], None] = lambda tensor, done, total: None,
) -> QuantizedWeights:
    """Round every weight matrix of a checkpoint to nearest under a recipe's weight format.

    Matrices are those that ``workbench error --weights`` ranks: tensors of floating-point numbers
    with two dimensions or more, embeddings among them; name those that should stay by ``keep``.
    One tensor at a time is in memory.

    Args:
        source: a ``.safetensors`` file, its index, or a folder of either.
        output: a ``.safetensors`` file: of each weight the bytes of codes, scales and zero points,
            under ``NAME.codes`` and so on; all other tensors as they were.
        keep: pattern, or patterns, of names of tensors that stay as they are.
        progress: called with the tensor at hand, matrices done and in all.
    Raises:
        ValueError: the recipe rounds no weights, a weight is not finite, a pattern matches nothing,
            the checkpoint cannot be read or the output not be written.
    """
    chosen, target = ptq_recipe(recipe), Path(output)
    fmt = chosen.weight
    if fmt.element.bits >= 16:
        raise ValueError(f"{chosen.name} leaves weights in {fmt}: choose one that quantises them")
    patterns = tuple(items_of("keep", keep, str, "patterns of names"))
    checkpoint = Checkpoint(Path(source))
    if any(file.resolve() == target.resolve() for file in checkpoint.files):
        raise ValueError(f"{target}: is read from: choose another output")
    check_tensor_file(target)
    for pattern in patterns:
        if not any(fnmatchcase(t.name, pattern) for t in checkpoint.tensors):
            raise ValueError(f"keep {pattern!r}: no tensor of {source} has such a name")
    reasons = {t.name: _reason(t, patterns) for t in checkpoint.tensors}
    applied = {t.scales.name for t in checkpoint.tensors if t.scales and not reasons[t.name]}
    kept = [t for t in checkpoint.tensors if t.name not in applied]
    todo = [t for t in kept if not reasons[t.name]]
    if not todo:
        raise ValueError(f"{source}: holds no weight matrix that could be quantised: check it")
    plans = [_plan(t, fmt if not reasons[t.name] else None) for t in kept]
    headers = {t.name: _header(t, fmt) for t in todo}
    made = QuantizedWeights(
        source=Path(source),
        output=target,
        recipe=chosen,
        tensors=tuple(
            WeightEntry(
                name=t.name,
                shape=t.shape,
                format=str(fmt) if not reasons[t.name] else t.dtype,
                quantized=not reasons[t.name],
                reason=reasons[t.name],
                stored_bytes=sum(entry.nbytes for entry in plan),
            )
            for t, plan in zip(kept, plans, strict=True)
        ),
    )
    # Known only once each tensor was read: what NVFP4 scales a tensor by, as a tensor of its own.
    record = made.record() | {"weights": headers}

    def produce(write: Callable[[bytes], object]) -> None:
        done = 0
        for tensor in kept:
            if reasons[tensor.name]:
                _copy(tensor, write)
                continue
            progress(tensor, done, len(todo))
            done += 1
            packed = _packed(checkpoint, tensor, fmt)
            for array in packed.arrays().values():
                write(array.tobytes())
            if _two_level(fmt):
                write(np.float32(packed.tensor_scale).tobytes())

    write_entries(
        target,
        [entry for plan in plans for entry in plan],
        {"format": "pt", RECORD: json.dumps(record)},
        produce,
    )
    return made


def _reason(tensor: StoredTensor, keep: tuple[str, ...]) -> str:
    if any(fnmatchcase(tensor.name, pattern) for pattern in keep):
        return "asked for"
    return tensor.refusal


def _two_level(fmt: TensorFormat) -> bool:
    return fmt.scaling is not None and fmt.scaling.two_level


def _plan(tensor: StoredTensor, fmt: TensorFormat | None) -> list[Entry]:
    """The entries that a tensor becomes; as it is where there is no format."""
    if fmt is None:
        size = int(np.prod(tensor.shape, dtype=np.int64)) * BITS[tensor.dtype] // 8
        return [Entry(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, nbytes=size)]
    rows, cols = tensor.rows, tensor.cols
    shapes: dict[str, tuple[int, ...]] = {"codes": (rows, -(-cols * fmt.element.bits // 8))}
    if fmt.scaling is not None:
        down, across = fmt.scaling.grid(rows, cols)
        shapes["scales"] = (down, across * fmt.scaling.stored.bits // 8)
        if fmt.asymmetric:
            shapes["zero_points"] = (-(-down * across * fmt.element.bits // 8),)
    entries = [
        Entry(
            name=f"{tensor.name}.{part}",
            dtype="U8",
            shape=shape,
            nbytes=int(np.prod(shape, dtype=np.int64)),
        )
        for part, shape in shapes.items()
    ]
    if _two_level(fmt):
        name = f"{tensor.name}.tensor_scale"
        entries.append(Entry(name=name, dtype="F32", shape=(), nbytes=4))
    return entries


def _header(tensor: StoredTensor, fmt: TensorFormat) -> dict[str, Any]:
    return {
        "format": str(fmt),
        "shape": f"{tensor.rows}x{tensor.cols}",
        "original": [tensor.dtype, list(tensor.shape)],
    }


def _packed(checkpoint: Checkpoint, tensor: StoredTensor, fmt: TensorFormat) -> PackedMatrix:
    slices = []
    before = 0
    for part in checkpoint.slices(tensor, min(tensor.rows, _ROWS)):
        bad = ~np.isfinite(part)
        if bad.any():
            row, col = np.argwhere(bad)[0]
            raise ValueError(
                f"{tensor.file}: tensor {shown(tensor.name)} holds NaN or infinite values, the "
                f"first at row {before + int(row)}, column {int(col)}: mend the checkpoint, or "
                "leave the tensor out by keep"
            )
        before += len(part)
        slices.append(torch.from_numpy(np.ascontiguousarray(part)))
    whole = slices[0] if len(slices) == 1 else torch.cat(slices)
    return pack(quantize_tensor(whole, fmt))


def _copy(tensor: StoredTensor, write: Callable[[bytes], object]) -> None:
    """The bytes of a tensor as they lie in its file."""
    import struct

    with tensor.file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entry = json.loads(stream.read(length))[tensor.name]
        first, last = entry["data_offsets"]
        stream.seek(8 + length + first)
        left = last - first
        while left:
            part = stream.read(min(left, 1 << 24))
            if not part:
                raise ValueError(f"{tensor.file}: ends before {shown(tensor.name)} does")
            write(part)
            left -= len(part)


def read_weights(path: str | Path, recipe: str | Recipe) -> dict[str, torch.Tensor]:
    """What the tensors of a quantised checkpoint stand for, in their original shapes.

    Args:
        path: a file of :func:`quantize_weights`.
        recipe: that it was quantised by.
    Returns:
        Weights in fp32, other tensors as they are.
    Raises:
        ValueError: another recipe, or not such a file.
    """
    from workbench.ptq.tensor_file import read_tensors

    metadata, tensors = read_tensors(Path(path))
    record = json.loads(metadata.get(RECORD, "null"))
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(
            f"{path}: holds no weights of schema {SCHEMA}: give an output of `workbench quantize "
            "--weights`"
        )
    chosen = ptq_recipe(recipe)
    with unfit(Path(path)):
        if record["recipe"] != chosen.name:
            raise ValueError(
                f"{path}: quantised by {record['recipe']}, not by {chosen.name}: read it with "
                f"recipe={record['recipe']!r}, or quantise the checkpoint anew"
            )
        return {
            entry["name"]: _read(entry, record["weights"], tensors) for entry in record["tensors"]
        }


def _read(
    entry: dict[str, Any], headers: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> torch.Tensor:
    from tiles.formats.packed import unpack_tensor

    name = entry["name"]
    if not entry["quantized"]:
        return tensors[name]
    header = headers[name]
    parts = ("codes", "scales", "zero_points")
    arrays = {p: tensors[f"{name}.{p}"].numpy() for p in parts if f"{name}.{p}" in tensors}
    outer = tensors.get(f"{name}.tensor_scale")
    scale = 1.0 if outer is None else float(outer)
    packed = PackedMatrix.read(arrays, header | {"tensor_scale": scale.hex()})
    return unpack_tensor(packed).dequantize().view(header["original"][1])
