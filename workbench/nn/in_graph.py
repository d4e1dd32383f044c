"""What finds a model behind the operators of a compiled graph, and its layers' codes of weights."""

import itertools
import weakref
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from workbench.nn.linear import QuantizedLinear
    from workbench.nn.runtime import Runtime

__all__ = ["InGraph", "runtime_at"]

_places = itertools.count()
_runtimes: "weakref.WeakValueDictionary[int, Runtime]" = weakref.WeakValueDictionary()


class InGraph:
    """What a graph says of a runtime, and where its layers' codes of weights are found."""

    def __init__(self, run: "Runtime", *, both: bool) -> None:
        """Give the runtime a place.

        Args:
            both: codes of activations serve both products.
        """
        recipe = run.recipe
        #: () int64 of the CPU: a number would be a constant of the graph, and every further model
        #: would be compiled anew.
        self.place = torch.from_numpy(np.array(next(_places)))
        self.formats = f"{recipe.activation} {recipe.weight} {recipe.gradient}"
        self.both = both
        self._layers: weakref.WeakSet[QuantizedLinear] = weakref.WeakSet()
        self._found: dict[int, weakref.ref[QuantizedLinear]] = {}
        _runtimes[int(self.place)] = run

    def add(self, layer: "QuantizedLinear") -> None:
        """Look at a layer's weight, too."""
        self._layers.add(layer)

    def layer_of(self, matrix: torch.Tensor) -> "QuantizedLinear | None":
        """The layer whose weight a matrix is, in the same memory."""
        address = matrix.data_ptr()
        known = self._found.get(address)
        layer = None if known is None else known()
        if layer is not None and _same(layer.matrix, matrix):
            return layer
        for layer in self._layers:
            if _same(layer.matrix, matrix):
                self._found[address] = weakref.ref(layer)
                return layer
        return None


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and (one.shape, one.stride()) == (other.shape, other.stride())
        and (one.dtype, one.device) == (other.dtype, other.device)
    )


def runtime_at(place: torch.Tensor, formats: str) -> "Runtime":
    """The runtime of a place.

    Raises:
        RuntimeError: it is gone, or another one's.
    """
    run = _runtimes.get(int(place))
    if run is None or run.in_graph is None or run.in_graph.formats != formats:
        raise RuntimeError(
            f"a compiled graph of {formats} has no model of these formats: it was compiled for one "
            "that is gone; call torch.compile on the model at hand"
        )
    return run
