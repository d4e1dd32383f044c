"""Options of the CUDA C++ kernels: names and fields that they know, handed over as macros."""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["check_choices", "check_fields", "macro_options"]


def check_choices(chosen: Mapping[str, tuple[str, Collection[str]]]) -> None:
    """Refuse a value that is not among its choices, by the argument's name.

    Raises:
        ValueError: names the argument and lists the choices.
    """
    for name, (value, known) in chosen.items():
        if value not in known:
            raise ValueError(f"{name} {value!r}: choose one of {', '.join(known)}")


def check_fields(config: Mapping[str, int | bool], fields: Collection[str]) -> None:
    """Refuse a configuration with other fields than these.

    Raises:
        ValueError: lists both.
    """
    if sorted(config) != sorted(fields):
        raise ValueError(f"config has fields {sorted(config)}: it takes {sorted(fields)}")


def macro_options(macros: Mapping[str, int], architecture: str = "") -> tuple[str, ...]:
    """The compiler's options that define macros.

    Args:
        architecture: where it is not the device's plain one, e.g. "sm_90a".
    """
    target = (f"-arch={architecture}",) if architecture else ()
    return ("-std=c++17", *target, *(f"-D{name}={value}" for name, value in macros.items()))
