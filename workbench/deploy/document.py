"""A JSON document as it stands: keys that stand twice and constants that JSON lacks included."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tiles.intake import shown

__all__ = ["Constant", "Fault", "Pairs", "Tell", "parse_document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong in a file."""

    rule: str
    message: str  #: rule, value, next step
    mended: bool = False  #: whether :attr:`Body.rows` are without it


class Pairs(tuple[tuple[str, Any], ...]):
    """An object as it stands, keys that stand twice included."""


class Constant:
    """NaN or an infinity, which JSON does not have."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


Tell = Callable[[Fault], None]


def parse_document(data: bytes, tell: Tell) -> Any:
    """The document, objects as pairs; ``None`` after a fault that leaves nothing to read."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        tell(Fault(rule="json.encoding", message=f"not UTF-8 at byte {error.start}: save it so"))
        return None
    if text.startswith("\ufeff"):
        tell(
            Fault(
                rule="json.encoding",
                message="begins with a byte-order mark, which Python's JSON refuses: remove it",
                mended=True,
            )
        )
        text = text[1:]
    constants: list[str] = []

    def constant(word: str) -> Constant:
        constants.append(word)
        return Constant(word)

    try:
        top = json.loads(text, object_pairs_hook=Pairs, parse_constant=constant)
    except RecursionError:
        tell(Fault(rule="json.broken", message="nested too deep: give a tuned file"))
        return None
    except ValueError as error:
        tell(Fault(rule="json.broken", message=f"not JSON: {shown(str(error), 100)}: correct it"))
        return None
    if constants:
        tell(
            Fault(
                rule="json.constant",
                message=f"{constants[0]} is no number of JSON's: write an integer",
            )
        )
    if not isinstance(top, Pairs):
        kind = type(top).__name__
        tell(Fault(rule="body.shape", message=f'takes {{"M": entry}}, got a {kind}: correct it'))
        return None
    return top
