"""Every launch refuses each wrong argument by its name, before anything is launched.

A family that joins the registry needs a line in ``good_launches.py``.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from cupy_arrays import array
from good_launches import ALL, LAUNCHES, launch_of, template

from tiles.kernels import kernels

KINDS = ("dtype", "missing", "no array", "shape", "dimensions", "device")


class Launched(Exception):
    """What a launch that goes through ends in here."""


def _launched(*given: Any, **rest: Any) -> Any:
    raise Launched


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    for family in LAUNCHES:
        module = template(family)
        for name in ("functions", "tensor_map", "run"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, _launched)
    monkeypatch.setattr("tiles.kernels.cuda.align_mx_scales.functions", _launched)
    monkeypatch.setattr("tiles.kernels.cuda.launches.shared_memory_bytes", lambda device: 227 << 10)
    monkeypatch.setattr("triton.runtime.jit.JITFunction.run", _launched)


def is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or isinstance(value, SimpleNamespace)


def places(given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arrays of a launch by name; those of operands of several parts as ``operand.part``."""
    for name, value in given.items():
        if is_array(value):
            yield name, value
        elif is_dataclass(value):
            for part in fields(value):
                if is_array(inside := getattr(value, part.name)):
                    yield f"{name}.{part.name}", inside


def changed(given: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    name, _, part = place.partition(".")
    return given | {name: replace(given[name], **{part: value}) if part else value}


def spoilt(value: Any, kind: str) -> Any:
    """An array that is wrong in one way."""
    if kind == "missing":
        return None
    if kind == "no array":
        return [0.0]
    shape = tuple(value.shape)
    if kind == "shape":
        shape = (*shape[:-1], shape[-1] + 1)
    if kind == "dimensions":
        shape = (*shape, 1)
    if isinstance(value, torch.Tensor):
        dtype = torch.float64 if kind == "dtype" else value.dtype
        device = "meta" if kind == "device" else "cpu"
        return torch.zeros(shape, dtype=dtype, device=device)
    name = "float64" if kind == "dtype" else value.dtype.name
    return array(shape, name, device=int(kind == "device"))


def told(launch: Any, given: dict[str, Any]) -> str:
    """What a launch refuses its arguments with; what it does else."""
    try:
        launch(**given)
    except (ValueError, TypeError) as error:
        return str(error)
    except Launched:
        return "LAUNCHED"
    except (AttributeError, IndexError, KeyError, RuntimeError) as error:
        return f"{type(error).__name__} {error}".upper()
    return "NOTHING"


def unnamed(text: str, *names: str) -> bool:
    """Whether a refusal is none in one line that names one of these."""
    return "\n" in text or not any(name and name in text for name in names)


def test_every_family_is_here() -> None:
    assert sorted(LAUNCHES) == sorted(kernels())


@pytest.mark.parametrize("family", ALL)
def test_good_arguments_are_launched(family: str) -> None:
    assert told(launch_of(family), ALL[family].make()) == "LAUNCHED"


@pytest.mark.parametrize("family", ALL)
def test_a_wrong_array_is_refused_by_name(family: str) -> None:
    one, wrong = ALL[family], []
    given, launch = one.make(), launch_of(family)
    everybody = [name.partition(".")[0] for name, _ in places(given)]
    for kind, (place, value) in itertools.product(KINDS, places(given)):
        if place in {"missing": one.spare, "shape": one.longer}.get(kind, ()):
            continue
        text = told(launch, changed(given, place, spoilt(value, kind)))
        # An operand that does not fit the others may be told by theirs.
        others = everybody if kind in ("shape", "device") else []
        if unnamed(text, place, place.rpartition(".")[2], place.partition(".")[0], *others):
            wrong.append((place, kind, text))
    assert not wrong


@pytest.mark.parametrize("family", LAUNCHES)
def test_unknown_and_missing_fields_of_a_configuration_are_refused(family: str) -> None:
    given, launch = LAUNCHES[family].make(), template(family).launch
    config = given["config"]
    assert not unnamed(told(launch, given | {"config": config | {"blok": 1}}), "blok")
    for name in config:
        less = {key: value for key, value in config.items() if key != name}
        assert not unnamed(told(launch, given | {"config": less}), name)


@pytest.mark.parametrize("family", ALL)
def test_an_output_on_another_array_s_memory_is_refused(family: str) -> None:
    one, wrong = ALL[family], []
    given, launch = one.make(), launch_of(family)
    found = dict(places(given))
    for place, other in itertools.product(one.written, found):
        if place == other:
            continue
        if isinstance(found[place], torch.Tensor):
            parts = [found[place], found[other]]
            sizes = [part.numel() * part.element_size() for part in parts]
            memory = torch.zeros(max(sizes), dtype=torch.uint8)
            both = given
            for name, part, size in zip((place, other), parts, sizes, strict=True):
                both = changed(both, name, memory[:size].view(part.dtype).view(part.shape))
        else:
            shape, dtype = found[place].shape, found[place].dtype.name
            at = found[other].data.ptr
            both = changed(given, place, array(shape, dtype, pointer=at))
        text = told(launch, both)
        if "overlaps" not in text or unnamed(text, place):
            wrong.append((place, other, text))
    assert not wrong


@pytest.mark.parametrize("family", ALL)
def test_elements_apart_are_refused_or_taken_as_they_lie(family: str) -> None:
    one, wrong = ALL[family], []
    given, launch = one.make(), launch_of(family)
    for place, value in places(given):
        if value.shape[-1] == 1 and place not in one.strided:
            continue
        if isinstance(value, torch.Tensor):
            wide = torch.zeros((*value.shape[:-1], 2 * value.shape[-1]), dtype=value.dtype)
            apart: Any = wide[..., ::2]
        else:
            steps = tuple(2 * stride for stride in value.strides)
            apart = array(tuple(value.shape), value.dtype.name, strides=steps)
        text = told(launch, changed(given, place, apart))
        if place in one.strided:
            wrong += [(place, text)] if text != "LAUNCHED" else []
        elif unnamed(text, place, place.rpartition(".")[2]):
            wrong.append((place, text))
    assert not wrong


def test_a_turned_matrix_too_long_for_32_bits_within_a_tile_is_refused() -> None:
    x = torch.empty(64, 2**26, dtype=torch.bfloat16, device="meta")
    codes = torch.empty(2**26, 64, dtype=torch.int8, device="meta")
    scales = torch.empty(2**21, 2, device="meta")
    given = ALL["turned_tiles"].make() | {"x": x, "codes": codes, "scales": scales}
    assert "it spans 2^31 elements or more" in told(launch_of("turned_tiles"), given)
