"""Quantised models in safetensors files: codes packed, scales, and a record that tells them apart.

One file holds everything.  Its metadata has the record as JSON under ``RECORD`` and, of every
quantised weight, format, shape and second-level scale; its tensors are the bytes of codes, scales
and zero points (``tiles.formats.PackedMatrix``), static scales of activations, and all parameters
and buffers that are not quantised, as they are.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tiles.formats import PackedMatrix, TensorFormat, pack
from tiles.formats.packed import unpack_tensor
from tiles.intake import shown
from tiles.recipes import Recipe
from workbench.nn.backend import Backend
from workbench.outfile import check_name
from workbench.ptq.formats import ptq_recipe
from workbench.ptq.layers import QuantizedLayer, moved
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.operator import Phase, Session
from workbench.ptq.options import Asked
from workbench.ptq.quantized import SCHEMA, Quantized, quantized_of
from workbench.ptq.scheme import Kind, Scheme
from workbench.ptq.tensor_file import RECORD, read_tensors, write_tensors

__all__ = ["load", "read_record", "save", "unfit"]

#: Parts of an operator's name in names of tensors.
_WEIGHT, _SCALE, _COLUMNS = "@weight.", "@scale.", "@outliers."


def save(quantized: Quantized, path: Path) -> Path:
    """Write a quantised model; see :meth:`Quantized.save`.

    Raises:
        ValueError: the path cannot be written.
    """
    check_name(path)
    record = quantized.record()
    tensors: dict[str, torch.Tensor] = {}
    weights: dict[str, dict[str, str]] = {}
    for name, layer in _layers(quantized.model).items():
        assert layer.codes is not None
        packed = pack(layer.codes)
        weights[name] = packed.header()
        for part, array in packed.arrays().items():
            tensors[f"{name}{_WEIGHT}{part}"] = torch.from_numpy(array)
        if isinstance(layer, QuantizedLinear) and layer.apart is not None:
            assert layer.apart.columns is not None
            assert layer.apart.weights is not None
            tensors[f"{name}{_COLUMNS}columns"] = layer.apart.columns
            tensors[f"{name}{_COLUMNS}weights"] = layer.apart.weights
    for operator in quantized.session.operators.values():
        for role, operand in operator.operands.items():
            if operand.scale is not None and not operator.kept:
                tensors[f"{operator.name}{_SCALE}{role}"] = operand.scale
    record["weights"] = weights
    record["tensors"] = list(state := quantized.model.state_dict())
    tensors |= state
    write_tensors(path, tensors, {"format": "pt", RECORD: json.dumps(record, allow_nan=False)})
    return path


def _layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    return {m.operator.name: m for m in model.modules() if isinstance(m, QuantizedLayer)}


def read_record(path: Path) -> dict[str, Any]:
    """The record of a quantised model.

    Raises:
        ValueError: no safetensors file, or not one of ours.
    """
    metadata, _ = read_tensors(path, only_metadata=True)
    try:
        record = json.loads(metadata.get(RECORD, "null"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its record is no JSON: was the file edited?") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        raise ValueError(
            f"{path}: holds no quantised model of schema {SCHEMA}"
            f"{f' but {shown(found)}' if found else ''}: give a file that Quantized.save wrote"
        )
    return record


def load(
    model: nn.Module, path: str | Path, recipe: str | Recipe, *, backend: Backend | None = None
) -> Quantized:
    """Read a quantised model back; it computes what it did, bit for bit.

    Args:
        model: of the same class and sizes as the one that was quantised; stays as it is.
        path: a file of :meth:`Quantized.save`.
        recipe: that it was quantised by.
        backend: as of :func:`workbench.ptq.quantize`.
    Raises:
        ValueError: another recipe, another model, or not such a file.
    """
    from workbench.ptq.quantize import copied_model

    chosen, source = ptq_recipe(recipe), Path(path)
    record = read_record(source)
    copied = copied_model(model)
    with unfit(source):
        _check_recipe(source, record, chosen)
        return _loaded(copied, source, record, chosen, backend)


@contextmanager
def unfit(path: Path) -> Iterator[None]:
    """Tell a file whose record and tensors do not belong together.

    Raises:
        ValueError: what is read inside cannot be; the message names the file.
    """
    try:
        yield
    except (KeyError, AttributeError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        raise ValueError(
            f"{path}: its record does not fit its tensors ({shown(str(error))}): was the file "
            "edited?"
        ) from error


def _loaded(
    model: nn.Module,
    source: Path,
    record: dict[str, Any],
    chosen: Recipe,
    backend: Backend | None,
) -> Quantized:
    from workbench.ptq.quantize import prepared
    from workbench.ptq.replace import restore

    quantized = {entry["name"] for entry in record["operators"]}
    weights = record["weights"]
    given = {name: TensorFormat.parse(header["format"]) for name, header in weights.items()}
    scheme = Scheme.from_dict({"name": record["scheme"]} | record["scheme_options"])
    made, session, kernels, interceptor = prepared(model, chosen, scheme, (), backend)
    layers = _layers(made)
    if missing := sorted(set(weights) - set(layers)):
        raise ValueError(
            f"{source}: quantises {shown(missing[0])}, which {type(model).__name__} has no layer "
            "for: build the model that was quantised"
        )
    _, tensors = read_tensors(source)
    for name, layer in layers.items():
        if name not in weights:
            layer.operator.kept = "kept when the model was quantised"
            continue
        layer.weight_format = given[name]
        layer.note_ragged()
        _take_weight(name, layer, weights[name], tensors, source)
    _operators(session, record, quantized)
    _take_scales(session, tensors, source)
    for entry in record["kept"]:
        operator = session.operators.get(entry["name"])
        if operator is not None:
            operator.kept = entry["reason"]
        else:
            session.unknown[entry["name"]] = entry["reason"]
    made = restore(made)
    interceptor.attach(made)
    _take_state(made, {name: tensors[name] for name in record["tensors"]}, source)
    session.found, session.phase = True, Phase.RUN
    asked = Asked.from_dict(record.get("options", {}))
    return quantized_of(made, session, kernels, asked, scores=None, measured=False)


def _check_recipe(path: Path, record: dict[str, Any], chosen: Recipe) -> None:
    if record["recipe"] != chosen.name:
        raise ValueError(
            f"{path}: quantised by {record['recipe']}, not by {chosen.name}: load it with "
            f"recipe={record['recipe']!r}, or quantise the model anew"
        )
    if record["activation"] != str(chosen.activation):
        raise ValueError(
            f"{path}: its {chosen.name} has activations in {record['activation']}, the recipe of "
            f"that name here {chosen.activation}: quantise the model anew"
        )


def _take_weight(
    name: str,
    layer: QuantizedLayer,
    header: dict[str, str],
    tensors: dict[str, torch.Tensor],
    path: Path,
) -> None:
    prefix = f"{name}{_WEIGHT}"
    arrays = {
        key.removeprefix(prefix): value.numpy()
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    codes = unpack_tensor(PackedMatrix.read(arrays, header))
    rows = layer.weight_shape[0]
    cols = layer.source.shape[1]
    if tuple(codes.codes.shape) != (rows, cols):
        raise ValueError(
            f"{path}: the weight of {name} is {codes.codes.shape[0]}x{codes.codes.shape[1]}, the "
            f"model's {rows}x{cols}: build the model that was quantised"
        )
    device = layer.source.device
    layer.take(moved(codes, device))
    if isinstance(layer, QuantizedLinear):
        smoothing = tensors.get(f"{name}.smoothing" if name else "smoothing")
        layer.smoothing = None if smoothing is None else smoothing.to(device)
        if layer.apart is not None:
            layer.apart.restore(
                tensors[f"{name}{_COLUMNS}columns"].to(device),
                tensors[f"{name}{_COLUMNS}weights"].to(device),
            )


def _operators(session: Session, record: dict[str, Any], quantized: set[str]) -> None:
    """Operators of functions, which a fresh model has none of before it is called."""
    from workbench.ptq.interceptor import new_operator

    for entry in record["operators"]:
        if entry["name"] in session.operators:
            continue
        text = entry["formats"].get("weight")
        weight = None if text is None else TensorFormat.parse(text)
        new_operator(entry["name"], Kind(entry["kind"]), session, weight)
    for entry in [*record["operators"], *record["kept"]]:
        if entry["name"] in session.operators:
            session.order.setdefault(entry["name"])
    for name, operator in session.operators.items():
        if name not in quantized and not operator.kept:
            operator.kept = "kept when the model was quantised"


def _take_scales(session: Session, tensors: dict[str, torch.Tensor], path: Path) -> None:
    for operator in session.operators.values():
        for role, operand in operator.operands.items():
            operand.scale = tensors.get(f"{operator.name}{_SCALE}{role}")
            scale = operand.scale
            if scale is not None and not (scale.numel() == 1 and bool(scale.isfinite().all())):
                raise ValueError(
                    f"{path}: the scale of the {role} of {operator.name} is no finite number: was "
                    "the file edited?"
                )
            if not operator.kept and not operand.ready:
                raise ValueError(
                    f"{path}: lacks the scale of the {role} of {operator.name}: was the "
                    "file edited?"
                )


def _take_state(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    wanted = model.state_dict()
    for name in sorted(set(wanted) ^ set(state)):
        raise ValueError(
            f"{path}: {shown(name)} stands in {'the model' if name in wanted else 'the file'} "
            "alone: build the model that was quantised"
        )
    for name, value in wanted.items():
        if value.shape != state[name].shape:
            raise ValueError(
                f"{path}: {shown(name)} has shape {tuple(state[name].shape)}, the model's "
                f"{tuple(value.shape)}: build the model that was quantised"
            )
    model.load_state_dict(state)
