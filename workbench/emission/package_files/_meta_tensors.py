"""Tensors of a model on the meta device, read from a checkpoint."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._checkpoint import Checkpoint
from ._computed_buffers import computed, is_computed
from ._linear_layers import Layer, target


def check_layers(layers: Sequence[Layer], checkpoint: Checkpoint) -> None:
    """Raises ValueError where a checkpoint lacks a weight or bias of a layer, or has another."""
    for layer in layers:
        name = stored_name(layer, checkpoint)
        checkpoint.check(f"{name}.weight", tuple(layer.weight.shape))
        if layer.bias is not None:
            checkpoint.check(f"{name}.bias", tuple(layer.bias.shape))


def stored_name(layer: Layer, checkpoint: Checkpoint) -> str:
    """The name, of those that a layer has, that the checkpoint knows it by."""
    return next((n for n in layer.names if f"{n}.weight" in checkpoint), layer.names[0])


class MetaTensors:
    """What of a model lies on the meta device, but for the layers that are replaced.

    Args:
        model: whose tensors are read.
        layers: that are replaced.
        checkpoint: to read from.
        device: where the tensors go.
    Raises:
        ValueError: the checkpoint lacks one that the model does not compute by itself, or has it in
            another shape.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        checkpoint: Checkpoint,
        device: torch.device | str | None,
    ) -> None:
        self._checkpoint, self._device = checkpoint, device
        #: Of each tensor its places: module, name there, name in the model.
        self._places: dict[int, list[tuple[nn.Module, str, str]]] = {}
        self._plain: dict[int, Tensor] = {}
        #: Those that no checkpoint has, on the host.
        self._computed: dict[int, Tensor] = {}
        replaced = {layer.module for layer in layers}
        for path, module in model.named_modules(remove_duplicate=False):
            if module in replaced:
                continue
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and tensor.is_meta:
                    full = f"{path}.{name}" if path else name
                    self._places.setdefault(id(tensor), []).append((module, name, full))
                    self._plain[id(tensor)] = tensor
        for key, tensor in self._plain.items():
            source = self._source(key)
            module, name, _ = self._places[key][0]
            if source not in checkpoint and is_computed(module, name):
                path = source.removesuffix(name).removesuffix(".")
                self._computed[key] = computed(model, path, name)
            else:
                checkpoint.check(source, tuple(tensor.shape))

    def _source(self, key: int) -> str:
        names = [full for _, _, full in self._places[key]]
        return next((name for name in names if name in self._checkpoint), names[0])

    def read(self) -> None:
        """Read them all, then put them in their places."""
        found: dict[int, Tensor] = {}
        for key, plain in self._plain.items():
            tensor = self._computed.get(key)
            if tensor is None:
                tensor = self._checkpoint.read(self._source(key))
            found[key] = tensor.to(target(plain, self._device), plain.dtype)
            if isinstance(plain, nn.Parameter):
                found[key] = nn.Parameter(found[key], requires_grad=plain.requires_grad)
        self._put(found)

    def put_back(self) -> None:
        """Have the meta tensors in their places again."""
        self._put(self._plain)

    def _put(self, tensors: dict[int, Tensor]) -> None:
        for key, tensor in tensors.items():
            for module, name, _ in self._places[key]:
                if name in module._buffers:
                    module._buffers[name] = tensor
                else:
                    assert isinstance(tensor, nn.Parameter)
                    module._parameters[name] = tensor
