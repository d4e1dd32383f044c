"""What training made, kept in a build folder under the digest of what decides it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

__all__ = ["kept_or_made"]

Module = TypeVar("Module", bound=nn.Module)


def kept_or_made(path: Path, model: Module, make: Callable[[], Module]) -> Module:
    """The model with the parameters of a file, or one made now and written there.

    Args:
        path: its name holds the digest of everything that decides the parameters.
        model: untrained, to take the parameters.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if path.exists():
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError):
            path.unlink()  # cut off or of another model: it is made again
        else:
            return model
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: one.contiguous() for name, one in made.state_dict().items()}, temporary)
    temporary.replace(path)
    return made
