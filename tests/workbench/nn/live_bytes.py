"""Bytes of the tensors that live at a time, counted on any device, meta included."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveBytes"]


class LiveBytes(TorchDispatchMode):
    """Counts storages from when an operator makes them until nobody holds them."""

    def __init__(self, *standing: torch.Tensor) -> None:
        """Tensors that stand there before are not counted."""
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()
        self._standing = [tensor.untyped_storage() for tensor in standing]
        for storage in self._standing:
            self._known.add(storage._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and type(tensor) is torch.Tensor:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
