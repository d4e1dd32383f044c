"""The body of a tuned file: read tolerantly with every fault, written strictly."""

import json
import re
from dataclasses import dataclass
from typing import Any

from tiles.intake import nearest, shown
from workbench.deploy.document import Constant, Fault, Pairs, Tell, parse_document
from workbench.deploy.families import ConfigFamily
from workbench.deploy.file_name import parse_version
from workbench.deploy.tuned import ENTRY_KEYS, Entry, TunedFile, TunedName

__all__ = ["Body", "body_text", "read_body"]

VERSION_KEY = "triton_version"
MAX_M = 2**24
MAX_NUMBER = 65_536  #: of a tile, a group, warps or stages
_INTEGER_TEXT = re.compile(r"\s*[+-]?[0-9]+\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a file holds."""

    rows: tuple[tuple[int, Entry], ...]  #: the good ones, M ascending
    triton: str | None
    faults: tuple[Fault, ...]

    @property
    def whole(self) -> bool:
        """Whether the rows are all that the file meant: nothing was given up."""
        return bool(self.rows) and all(fault.mended for fault in self.faults)


def read_body(data: bytes, family: ConfigFamily, name: TunedName) -> Body:
    """Read a file's bytes; whatever can be told apart from noise becomes rows, the rest faults."""
    faults: list[Fault] = []
    top = parse_document(data, faults.append)
    if not isinstance(top, Pairs):
        return Body(rows=(), triton=None, faults=tuple(faults))
    rows: dict[int, Entry | None] = {}
    raw: dict[int, Any] = {}
    triton = None
    for key, value in top:
        if key == VERSION_KEY:
            triton = _version(value, family, faults.append)
            continue
        m = _m_of(key, value, faults.append)
        if m is None:
            continue
        if m in rows:
            same = raw[m] == value
            faults.append(
                Fault(
                    rule="json.duplicate",
                    message=f"M {m} stands twice"
                    + (", the same both times: remove one" if same else ": remove the wrong one"),
                    mended=same,
                )
            )
            continue
        raw[m] = value
        rows[m] = _entry(f"M {m}", value, family, name, faults.append)
    if not rows:
        faults.append(Fault(rule="body.empty", message="no M: add an entry, or remove the file"))
    elif list(rows) != sorted(rows):
        at = next(b for a, b in zip(rows, list(rows)[1:], strict=False) if b < a)
        faults.append(
            Fault(
                rule="body.order",
                message=f"M {at} stands behind a larger one: of two equally near the first in the "
                "file is taken, sort them",
                mended=True,
            )
        )
    good = tuple((m, entry) for m, entry in sorted(rows.items()) if entry is not None)
    return Body(rows=good, triton=triton, faults=tuple(faults))


def body_text(family: ConfigFamily, file: TunedFile) -> str:
    """The text of a file: entries of integers alone, M ascending, indented as the tuners do.

    Raises:
        ValueError: an entry lacks a key that the kernel takes, or has one that it does not.
    """
    must, may = family.entry_keys(file.name), family.optional_keys(file.name)
    body: dict[str, Any] = {}
    if family.version_key and file.triton is not None:
        body[VERSION_KEY] = file.triton
    for m, entry in file.rows:
        values = entry.to_dict()
        for key in must:
            if key not in values:
                raise ValueError(f"M {m}: {key} is missing: {family.name} launches with it")
        for key in values:
            if key not in must and key not in may:
                raise ValueError(f"M {m}: {key} is no argument of {family.engine}'s kernel")
        body[str(m)] = values
    return json.dumps(body, indent=4, allow_nan=False) + "\n"


def _version(value: Any, family: ConfigFamily, tell: Tell) -> str | None:
    if not family.version_key:
        tell(
            Fault(
                rule="version.key",
                message=f"{VERSION_KEY}: {family.engine} reads every key of {family.name} as an "
                "integer: remove it",
                mended=True,
            )
        )
    # Triton's own versions may carry a suffix, e.g. 3.6.0+git1a2b.
    if not isinstance(value, str) or parse_version(re.split(r"[+\-a-z]", value)[0]) is None:
        tell(
            Fault(
                rule="version.value",
                message=f"{VERSION_KEY} {shown(value)}: write the version, e.g. 3.6.0",
            )
        )
        return None
    return value


def _m_of(key: str, value: Any, tell: Tell) -> int | None:
    """The M that a key means; ``None`` after a fault."""
    try:
        m = int(key) if len(key) <= 40 else None
    except ValueError:
        m = None
    if m is None:
        # An entry under a mistyped M is somebody's tuning: it is not thrown away.
        entry = isinstance(value, Pairs) and any(name in ENTRY_KEYS for name, _ in value)
        step = "write the M that its entry is for" if entry else "move it into a file of its own"
        tell(
            Fault(
                rule="body.key",
                message=f"key {shown(key)} is no integer: one such key fails the load, {step}",
                mended=not entry,
            )
        )
        return None
    if not 1 <= m <= MAX_M:
        tell(Fault(rule="body.range", message=f"M {shown(m)}: 1 to {MAX_M}, correct it"))
        return None
    return m


def _entry(
    where: str, value: Any, family: ConfigFamily, name: TunedName, tell: Tell
) -> Entry | None:
    """An entry without its faults, or ``None`` where they leave none."""
    if not isinstance(value, Pairs):
        tell(
            Fault(
                rule="body.shape",
                message=f"{where}: takes an object of integers, got {shown(value)}: correct it",
            )
        )
        return None
    must, may = family.entry_keys(name), family.optional_keys(name)
    values: dict[str, int | None] = {}
    extra = []
    for key, one in value:
        if key in values:
            tell(
                Fault(
                    rule="json.duplicate", message=f"{where}: {shown(key)} stands twice: keep one"
                )
            )
            values[key] = None
        elif key in must or key in may:
            values[key] = _number(f"{where}: {key}", one, key in family.flags, key in must, tell)
        else:
            extra.append(key)
    missing = [key for key in must if key not in values]
    for key in missing:
        close = nearest(key, extra)
        tell(Fault(rule="entry.missing", message=f"{where}: {key} is missing: {close}add it"))
    mistyped = False
    for key in extra:
        # Of what may be there: a key that must be is missing then, and its finding asks.
        close = nearest(key, [one for one in may if one not in values])
        mistyped = mistyped or bool(close)
        tell(
            Fault(
                rule="entry.extra",
                message=f"{where}: {shown(key)} is no argument of {family.engine}'s kernel and "
                f"fails the launch: {close}{'correct' if close else 'remove'} it",
                mended=not missing and not close,
            )
        )
    numbers = {key: number for key, number in values.items() if number is not None}
    if missing or mistyped or len(numbers) < len(values):
        return None
    return Entry.from_dict(numbers)


def _number(where: str, value: Any, flag: bool, tile: bool, tell: Tell) -> int | None:
    """An integer (a truth value where the key is a flag), mended where its text says which."""
    if flag:
        if isinstance(value, bool):
            return value
        tell(
            Fault(
                rule="entry.type",
                message=f"{where} {shown(value)}: takes true or false, correct it",
            )
        )
        return None
    if isinstance(value, Constant):
        return None  # told already
    number = value
    if type(value) is not int:
        if isinstance(value, float) and value.is_integer():
            number = int(value)
        elif isinstance(value, str) and len(value) < 12 and _INTEGER_TEXT.fullmatch(value):
            number = int(value)
        else:
            number = None
        tell(
            Fault(
                rule="entry.type",
                message=f"{where} {shown(value)}: takes an integer, write "
                f"{'one' if number is None else number}",
                mended=number is not None,
            )
        )
        if number is None:
            return None
    # ROCm's knobs may be 0, which leaves the choice to the compiler; tiles and counts may not.
    if not (1 if tile else 0) <= number <= MAX_NUMBER:
        tell(
            Fault(
                rule="entry.range",
                message=f"{where} {shown(number)}: {1 if tile else 0} to {MAX_NUMBER}, correct it",
            )
        )
        return None
    return int(number)
