"""From a kernel family's name to its descriptor, the same way in the parent and in workers."""

import importlib

from tiles.kernels import Kernel, kernel

__all__ = ["family"]


def family(name: str) -> Kernel:
    """The kernel family called ``name``, or the one at ``module:attribute``.

    The second form names a :class:`Kernel` (an instance or a class without arguments) that is
    not registered.  A worker resolves it by itself, so nothing is pickled.

    Raises:
        ValueError: no such family, module or attribute, or it is no Kernel.
    """
    if ":" not in name:
        return kernel(name)
    module_name, attribute = name.split(":", 1)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"kernel {name!r}: {error}; write module:attribute") from error
    candidate = found() if isinstance(found, type) else found
    if not isinstance(candidate, Kernel):
        raise ValueError(f"kernel {name!r} is {candidate!r}, not a Kernel")
    return candidate
