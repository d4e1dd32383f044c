"""Which modules of a model run, told to whoever follows the calls inside of them."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import compiler, nn

from workbench.nn.compiled import outside_graphs

__all__ = ["Followed", "Frame", "Frames"]

#: A module that runs, its name, and what it has called so far.
Frame = tuple[nn.Module, str, Counter[str]]


class Frames(threading.local):
    """The modules that run in the thread that asks, the innermost last.

    Copies of a model, and models read back, begin with none.
    """

    def __init__(self) -> None:
        self.running: list[Frame] = []

    def __deepcopy__(self, memo: dict[int, object]) -> "Frames":
        return Frames()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Frames, ()


class Followed:
    """Stands for ``forward`` of one module, inside of which calls are followed.

    Hooks would not do: torch runs none of them after a ``KeyboardInterrupt``, and what they had
    switched on would stay on.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        inside: Callable[[nn.Module, str], AbstractContextManager[None]],
        launches: Callable[[Any], bool],
    ) -> None:
        """Take the place of a module's ``forward``.

        Args:
            name: in the model.
            inside: is entered before the module's own ``forward``, and left whatever happens.
            launches: tells of what a module is given whether kernels may run inside.
        """
        self.module, self.name, self.inside, self.launches = module, name, inside, launches
        #: What stood there on the module itself, as some libraries put it.
        self.before: Callable[..., Any] | None = module.__dict__.get("forward")

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """For code that asks for the signature, as Hugging Face's models do."""
        if self.before is not None:
            return self.before
        bound: Callable[..., Any] = type(self.module).forward.__get__(self.module)
        return bound

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if compiler.is_compiling() and self.launches((inputs, options)):
            return self._uncompiled(*inputs, **options)
        with self.inside(self.module, self.name):
            return self.__wrapped__(*inputs, **options)

    @outside_graphs
    def _uncompiled(self, *inputs: Any, **options: Any) -> Any:
        with self.inside(self.module, self.name):
            return self.__wrapped__(*inputs, **options)
