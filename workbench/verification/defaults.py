"""The default configurations of a package: untuned extents and other GPUs may take any of them."""

import json
from typing import Any

__all__ = ["default_choices", "default_name"]


def default_choices(lookup: Any, family: str, formats: tuple[str, ...]) -> list[Any]:
    """A family's defaults for some formats, each distinct configuration once.

    Args:
        lookup: the package's lookup module.
        family: kernel family.
        formats: (recipe, output) or (target, source).
    Returns:
        The package's own ``Choice`` of each.
    """
    distinct: dict[str, Any] = {}
    for file in lookup.FILES:
        if (file.kernel, file.formats, file.extents) == (family, formats, None):
            for m, config in file.entries:
                choice = lookup.Choice(file=file, m=m, config=config)
                distinct.setdefault(json.dumps(config, sort_keys=True), choice)
    return list(distinct.values())


def default_name(choice: Any) -> str:
    """What a report calls a default."""
    return f"default for M = {choice.m} on {choice.file.gpu or 'any GPU'}"
