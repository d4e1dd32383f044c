"""The linear layers of a model, and which of them can be replaced."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ._linear_recipes import LinearRecipe
from ._torch_device import NAMES, device_facts
from ._weight_readers import weight_readers

#: What stays plain unless the caller says otherwise: small errors of logits change tokens.
KEPT = ("lm_head",)
#: First capability of NVIDIA's GPUs that the package's kernels run on.
_LEAST = (8, 0)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(eq=False)
class Layer:
    """A layer of the model, under all its names."""

    module: nn.Module
    places: list[tuple[nn.Module, str]] = field(
        default_factory=list
    )  #: parents, and its name there
    names: list[str] = field(default_factory=list)
    reader: str = ""  #: class of a module that reads its weight itself

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored (in, out)."""
        return not isinstance(self.module, nn.Linear)

    @property
    def weight(self) -> Tensor:
        found = self.module.weight
        assert isinstance(found, Tensor)
        return found

    @property
    def bias(self) -> Tensor | None:
        found = self.module.bias
        assert found is None or isinstance(found, Tensor)
        return found

    @property
    def extents(self) -> tuple[int, int]:
        """(N, K)."""
        rows, cols = self.weight.shape
        return (cols, rows) if self.transposed else (rows, cols)

    def home(self, device: torch.device | str | None) -> torch.device:
        """Where its codes go: where it is, from the meta device to the one that is given."""
        return target(self.weight, device)

    def put(self, module: nn.Module) -> None:
        """Put a module in its place."""
        for parent, name in self.places:
            parent._modules[name] = module


def layers(model: nn.Module) -> Iterator[Layer]:
    """Layers that compute a product with a weight matrix, each once."""
    found: dict[nn.Module, Layer] = {}
    readers = weight_readers(model)
    for path, parent in model.named_modules(remove_duplicate=False):
        for name, child in parent._modules.items():
            if isinstance(child, nn.Linear) or _is_conv1d(child):
                assert child is not None
                layer = found.setdefault(child, Layer(child, reader=readers.get(child, "")))
                layer.places.append((parent, name))
                layer.names.append(f"{path}.{name}" if path else name)
    yield from found.values()


def _is_conv1d(module: nn.Module | None) -> bool:
    """Whether it is the Conv1D of transformers: a linear layer whose weight is (in, out)."""
    transformers: Any = sys.modules.get("transformers.pytorch_utils")
    return transformers is not None and type(module) is transformers.Conv1D


def _paths(name: str) -> Iterable[str]:
    """A module's path, and those of all above it, each also by its last name."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])
        yield parts[end - 1]


def check_keep(model: nn.Module, keep: Sequence[str]) -> None:
    """Raises ValueError for a name that no module of the model has."""
    if isinstance(keep, str):
        raise ValueError(f"keep is {keep!r}: write a sequence of names, ({keep!r},)")
    paths = {path for name, _ in model.named_modules() for path in _paths(name)}
    for pattern in keep:
        if pattern not in KEPT and not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(f"keep {pattern!r}: no module of the model has such a name")


def kept(layer: Layer, keep: Sequence[str]) -> str:
    """Why a layer is left, where a pattern names it or a module above it; else ""."""
    for pattern in keep:
        if any(fnmatchcase(path, pattern) for name in layer.names for path in _paths(name)):
            return f"kept by {pattern!r}"
    return ""


def obstacle(
    model: nn.Module,
    layer: Layer,
    recipe: LinearRecipe,
    stored: bool,
    device: torch.device | str | None,
) -> str:
    """Why a layer cannot be replaced; "" when it can.

    Args:
        model: that it is a part of.
        layer: one of :func:`layers`.
        recipe: to replace it by.
        stored: its weights come from a checkpoint.
        device: where layers of the meta device go.
    """
    module = layer.module
    if isinstance(module, nn.Linear) and type(module) is not nn.Linear:
        return f"{type(module).__name__} is no plain nn.Linear"
    for parent, _ in layer.places:
        source = type(parent).__module__
        if source.startswith("torch.nn.") and not isinstance(parent, _CONTAINERS):
            return f"{type(parent).__name__} reads its weights by itself"
    if layer.reader:
        return f"{layer.reader} reads its weight by itself"
    hooked = any(getattr(module, kind) for kind in ("_forward_hooks", "_forward_pre_hooks"))
    if hooked or "forward" in vars(module):
        return "it has hooks: remove them first"
    weight = layer.weight
    owners = [one for one in model.modules() if weight in _Same(one._parameters.values())]
    if len(owners) > 1:
        return "its weight is shared with another module"
    n, k = layer.extents
    if n == 0 or k == 0:
        return "its weight is empty"
    if NAMES.get(weight.dtype) not in recipe.dtypes:
        known = " or ".join(recipe.dtypes)
        return f"its weights are {weight.dtype}, {recipe.name} takes {known} activations"
    if recipe.max_k is not None and k > recipe.max_k:
        return f"{k} columns: the int32 accumulator could overflow beyond {recipe.max_k}"
    home = layer.home(device)
    if weight.is_meta and not stored:
        return "it lies on the meta device: give its weights"
    if home.type == "cuda" and torch.cuda.get_device_capability(home) < _LEAST:
        return f"{device_facts(home)[0]} runs none of the package's kernels"
    return ""


class _Same:
    """Tensors, compared by what they are instead of element by element."""

    def __init__(self, tensors: Iterable[Tensor | None]) -> None:
        self._ids = {id(tensor) for tensor in tensors}

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._ids


def target(tensor: Tensor, device: torch.device | str | None) -> torch.device:
    """Where a tensor is, or from the meta device goes to: by default the GPU at hand."""
    if not tensor.is_meta:
        return tensor.device
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
