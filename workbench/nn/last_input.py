"""Codes of the tensor that was quantised last: layers side by side read the same one."""

import weakref
from collections.abc import Callable

import torch

from workbench.nn.codes import BothDirections

__all__ = ["LastInput"]


class LastInput:
    """Remembers codes of one tensor, for as long as that lives and is not written to.

    Only of tensors that autograd made: what a caller hands in may be a buffer that is written past
    torch's count of changes.
    """

    def __init__(self) -> None:
        """Nothing is remembered."""
        self._entry: tuple[weakref.ref[torch.Tensor], int, dict[bool, BothDirections]] | None = None

    def __reduce__(self) -> tuple[type["LastInput"], tuple[()]]:
        """A model that is saved as a whole remembers nothing."""
        return LastInput, ()

    def codes(
        self, x: torch.Tensor, both: bool, make: Callable[[], BothDirections]
    ) -> BothDirections:
        """Codes of ``x`` in one direction or both: of the call before, or what ``make`` returns."""
        if x.grad_fn is None:
            return make()
        entry = self._entry
        if entry is None or entry[0]() is not x or entry[1] != x._version:
            self._entry = entry = (weakref.ref(x, self._forget), x._version, {})
        if both not in entry[2]:
            entry[2][both] = make()
        return entry[2][both]

    def _forget(self, dead: weakref.ref[torch.Tensor]) -> None:
        if self._entry is not None and self._entry[0] is dead:
            self._entry = None
