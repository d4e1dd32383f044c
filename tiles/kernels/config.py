"""The configuration record that every kernel family derives from."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

__all__ = ["TileConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileConfig:
    """Base of every kernel family's configuration: a record of ints and bools, nothing else."""

    def to_dict(self) -> dict[str, int | bool]:
        """Field name to value, JSON-ready; this mapping is all that a kernel template sees."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`; what was stored before a field with a default has that.

        Raises:
            ValueError: a field without a default is missing, or one is unknown or not of its type.
        """
        known = {f.name: f.type for f in fields(cls)}
        values = {**cls.defaults(), **values}
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(
                f"{cls.__name__}: unknown field {unknown[0]!r}, known: {', '.join(known)}"
            )
        if missing := sorted(set(known) - set(values)):
            raise ValueError(f"{cls.__name__}: missing field {missing[0]!r}")
        for name, declared in known.items():
            expected = bool if declared in (bool, "bool") else int
            if type(values[name]) is not expected:
                raise ValueError(
                    f"{cls.__name__}.{name} takes {expected.__name__}, got {values[name]!r}"
                )
        return cls(**values)

    @classmethod
    def defaults(cls) -> dict[str, int | bool]:
        """The fields that may be left out, with the values that they then have."""
        return {f.name: f.default for f in fields(cls) if f.default is not MISSING}

    def __str__(self) -> str:
        return " ".join(f"{name}={int(value)}" for name, value in self.to_dict().items())
