"""What the warpgroups of a warp-specialised kernel fetch, multiply, load and store.

Read off the TTGIR behind the compiler's warp specialisation: its integers are evaluated with numpy
for one program, so that every address of every warpgroup is known without a GPU.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["POINTER", "Partition", "partitions"]

#: Element offsets behind different pointers differ by multiples of it.
POINTER = 1 << 40

Array = NDArray[np.int64]

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "arith.addi": operator.add,
    "arith.subi": operator.sub,
    "arith.muli": operator.mul,
    "arith.divsi": operator.floordiv,
    "arith.remsi": operator.mod,
    "arith.minsi": np.minimum,
    "arith.maxsi": np.maximum,
    "arith.andi": operator.and_,
    "arith.cmpi slt": operator.lt,
    "tt.addptr": operator.add,
}
_SAME = ("arith.extsi", "arith.extui", "arith.trunci", "ttg.convert_layout")
_LINE = re.compile(r"(?:%([\w#]+)(?::\d+)? = )?([\w.]+)(?: (slt),)?")


@dataclass(slots=True, kw_only=True)
class Partition:
    """One warpgroup: element offsets of its accesses, in its first step along K.

    Offsets of a pointer begin at ``POINTER`` times its place among the kernel's parameters.
    """

    loads: list[Array] = field(default_factory=list)
    stores: list[Array] = field(default_factory=list)
    #: Shared buffers that descriptors fill, with the coordinates of the first element.
    fetches: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: Shared buffers of the two sides of each product.
    products: list[tuple[str, str]] = field(default_factory=list)


def partitions(ttgir: str, values: Mapping[str, int]) -> list[Partition]:
    """Every warpgroup of a kernel, the default one first.

    Args:
        ttgir: a kernel with one ``ttg.warp_specialize``.
        values: the kernel's integers that addresses depend on, and ``program_id``.
    """
    lines = [re.sub(r" loc\(.*$", "", line).strip() for line in ttgir.splitlines()]
    begin = next(i for i, line in enumerate(lines) if line.startswith("tt.func"))
    starts = [
        i
        for i, line in enumerate(lines)
        if re.match(r"(ttg\.warp_specialize|partition\d+)\(", line)
    ]
    signature = next(line for line in ttgir.splitlines() if "tt.func" in line)
    outer: dict[str, Any] = dict(values)
    for place, (name, kind) in enumerate(re.findall(r"%(\w+): (\S+?)[ ,)]", signature)):
        if kind.startswith("!tt.ptr"):
            outer[name] = np.int64(place * POINTER)
    _evaluate(lines[begin + 1 : starts[0]], outer, Partition())
    passed = re.findall(r"%([\w#]+)", lines[starts[0]].split(")")[0])
    found = [Partition()]
    _evaluate(lines[starts[0] + 1 : starts[1]], dict(outer), found[0])
    headers = [line.strip() for line in ttgir.splitlines() if re.match(r"\s*partition\d+\(", line)]
    for header, start, end in zip(headers, starts[1:], [*starts[2:], len(lines)], strict=True):
        inner = {"program_id": values["program_id"]}
        for name, given in zip(re.findall(r"%(\w+): ", header), passed, strict=True):
            if given in outer:
                inner[name] = outer[given]
        found.append(Partition())
        _evaluate(lines[start + 1 : end], inner, found[-1])
    return found


def _shape(line: str) -> tuple[int, ...]:
    """Shape of a line's result, its last tensor type."""
    dims = re.findall(r"tensor<((?:\d+x)+)", line)[-1]
    return tuple(int(d) for d in dims.rstrip("x").split("x"))


def _evaluate(lines: list[str], known: dict[str, Any], into: Partition) -> None:
    """Follow a region's lines in order, loops once; what is no integer stays unknown."""
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        result, op = match[1], match[2] + (f" {match[3]}" if match[3] else "")
        names = re.findall(r"%([\w#]+)", line.split(" = ", 1)[1] if result else line)
        if op == "scf.for":
            known[names[0]] = known.get(names[1])
            for name, start in re.findall(r"%(\w+) = %([\w#]+)", line.split("iter_args")[-1]):
                known[name] = known.get(start)
            continue
        if op in ("tt.load", "tt.store"):
            at = known[names[0]]
            kept = known[names[-1]] if op == "tt.store" and len(names) > 2 else True
            (into.stores if op == "tt.store" else into.loads).append(
                np.asarray(at)[np.broadcast_to(kept, np.shape(at))]
            )
        elif op == "ttng.async_tma_copy_global_to_local":
            at = tuple(int(known[name]) for name in names[1:3])
            into.fetches[known[names[3]]] = at
        elif op == "ttng.warp_group_dot":
            into.products.append((known[names[0]], known[names[1]]))
        elif result is not None:
            value = _value(op, line, [known.get(name) for name in names], result, known)
            if value is not None:
                known[result] = value


def _value(op: str, line: str, given: list[Any], result: str, known: Mapping[str, Any]) -> Any:
    """What an operation makes of known operands; None: unknown."""
    if op == "arith.constant":
        text = re.sub(r"\{.*?\} ?", "", line).split("arith.constant ")[1].split(" :")[0]
        digits = re.fullmatch(r"(?:dense<)?(-?\d+|true|false)>?", text)
        if digits is None:
            return None
        scalar = np.int64({"true": "1", "false": "0"}.get(digits[1], digits[1]))
        return np.full(_shape(line), scalar) if text.startswith("dense") else scalar
    if op == "tt.get_program_id":
        return known["program_id"]
    if op == "tt.make_range":
        start, end = (re.search(rf"{word} = (\d+)", line) for word in ("start", "end"))
        assert start is not None
        assert end is not None
        return np.arange(int(start[1]), int(end[1]))
    if op == "ttg.local_alloc":
        return result
    if op in ("ttg.memdesc_index", "ttg.memdesc_trans"):
        return given[0]  # whichever stage it is, the buffer is the same
    if not given or any(value is None for value in given[:2]):
        return None
    if op in _SAME:
        return given[0]
    if op in _BINARY:
        return _BINARY[op](given[0], given[1])
    if op == "tt.splat":
        return np.full(_shape(line), given[0])
    if op == "tt.broadcast":
        return np.broadcast_to(given[0], _shape(line))
    if op == "tt.expand_dims":
        axis = re.search(r"axis = (\d)", line)
        assert axis is not None
        return np.expand_dims(given[0], int(axis[1]))
    return None
