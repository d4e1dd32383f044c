"""Weights packed for the weight-only product, as a part of a module that saves and loads."""

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ._lookup import layouts
from ._operands import check_tensor

KERNEL = "triton_weight_only"
_RECIPES = {recipe: layout for (recipe, _), layout in layouts(KERNEL).items()}
_PARTS = ("codes", "scale", "zero", "row_scale")
#: Dtype in which scales of groups are given; without groups they are fp32.
_STORED = {
    "fp32": (torch.float32,),
    "fp16": (torch.float16,),
    "bf16": (torch.bfloat16,),
    "e8m0fnu": (torch.uint8, torch.float8_e8m0fnu),
    "e4m3fn": (torch.float8_e4m3fn,),
}


class PackedWeight(torch.nn.Module):
    """A weight matrix (N, K) in the order that the kernel reads; :func:`pack_weight` makes one.

    As a part of another module it moves, saves and loads with it: its state is tensors alone, the
    facts among them, so that ``state_dict`` and safetensors files hold all of it.  A change of the
    module's dtype leaves it as it is.  ``PackedWeight()`` is empty until a state is loaded.
    """

    codes: Tensor | None
    scale: Tensor | None
    zero: Tensor | None
    row_scale: Tensor | None
    facts: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        for name in (*_PARTS, "facts"):
            self.register_buffer(name, None)
        self.recipe, self.columns = "", 0

    @property
    def rows(self) -> int:
        """N."""
        return 0 if self.codes is None else self.codes.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """``x @ W^T`` in x's dtype; see ``linear_weight_only``."""
        from ._weight_only import linear_weight_only  # imports this module

        return linear_weight_only(x, self)

    def extra_repr(self) -> str:
        return f"{self.rows} x {self.columns}, {self.recipe or 'empty'}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedWeight":
        # As bytes: a change of dtype is for floating-point tensors, and would spoil scales.
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer.view(torch.uint8)).view(buffer.dtype)
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any
    ) -> None:
        # An empty weight knows no shapes: it takes what the state has.
        for name in (*_PARTS, "facts"):
            found = state_dict.get(prefix + name)
            if found is not None:
                held = self._buffers[name]
                device = found.device if held is None else held.device
                self._buffers[name] = found.detach().to(device, copy=True)
            elif name in ("scale", "zero"):
                self._buffers[name] = None
        _, strict, missing, unexpected, *_ = arguments
        if strict:
            needed = [prefix + name for name in ("codes", "row_scale", "facts")]
            missing += [name for name in needed if name not in state_dict]
            known = {prefix + name for name in (*_PARTS, "facts")}
            unexpected += [n for n in state_dict if n.startswith(prefix) and n not in known]
        self._read_facts()

    def _read_facts(self) -> None:
        if self.facts is None or self.facts.device.type == "meta":
            return
        facts = json.loads(bytes(self.facts.tolist()))
        if facts["recipe"] not in _RECIPES:
            known = ", ".join(_RECIPES)
            raise ValueError(
                f"the weight was packed for {facts['recipe']!r}: this package has {known}"
            )
        self.recipe, self.columns = facts["recipe"], facts["columns"]


def pack_weight(
    codes: Tensor,
    scales: Tensor,
    *,
    recipe: str,
    columns: int | None = None,
    zero_points: Tensor | None = None,
    tensor_scale: Tensor | None = None,
) -> PackedWeight:
    """Lay a quantised weight matrix out for the kernel; once, ahead of time.

    Args:
        codes: (N, bytes of K codes) uint8, or 8-bit codes in their own dtype; 4-bit codes two a
            byte, the even column in the low half, ``int4`` stored plus 8.
        scales: one a block of the recipe: fp32 (N, 1) or (1, 1) for whole rows or the tensor; of
            groups along K (N, groups) in the format that the recipe stores, E8M0 as uint8 or
            ``torch.float8_e8m0fnu``.
        recipe: a weight-only recipe that the package was emitted with, e.g. ``"w4a16-g128"``.
        columns: K; default: as many as the bytes hold.
        zero_points: uint8, one a scale, for recipes that have them.
        tensor_scale: fp32, one further scale of all weights (NVFP4).
    Raises:
        ValueError: unknown recipe, or shapes and devices that do not fit.
        TypeError: wrong dtype, or no tensor.
    """
    for name, tensor in (("codes", codes), ("scales", scales)):
        check_tensor(name, tensor)
    layout = _RECIPES.get(recipe)
    if layout is None:
        raise ValueError(f"no weight-only recipe {recipe!r}: there is {', '.join(_RECIPES)}")
    if codes.element_size() != 1:
        raise TypeError(f"codes hold {codes.dtype}: view their bit patterns as torch.uint8")
    if codes.ndim != 2 or scales.ndim != 2:
        raise ValueError(
            f"pack_weight takes matrices, got {tuple(codes.shape)} and {tuple(scales.shape)}"
        )
    rows, group = layout["block"]
    dtypes = _STORED[layout["stored"]] if group else (torch.float32,)
    if scales.dtype not in dtypes:
        wanted = " or ".join(map(str, dtypes))
        raise TypeError(f"scales hold {scales.dtype}: recipe {recipe} takes {wanted}")
    if scales.dtype == torch.float8_e8m0fnu:
        scales = scales.view(torch.uint8)

    def by_row(grid: Tensor) -> Tensor:
        """One row of scales for each row of weights, where several rows share one."""
        bits = grid.view(torch.uint8) if grid.element_size() == 1 else grid
        wide = bits.repeat_interleave(rows, 0)[: codes.shape[0]] if rows > 1 else bits
        return wide.contiguous().view(grid.dtype)

    packing: Any = importlib.import_module(f"{__package__}.kernels.triton.weight_layout")
    packed = packing.pack(
        codes.view(torch.uint8),
        by_row(scales),
        element=layout["element"],
        columns=codes.shape[1] * 8 // layout["bits"] if columns is None else columns,
        group=group,
        zero_points=None if zero_points is None else by_row(zero_points),
        tensor_scale=tensor_scale,
    )
    weight = PackedWeight()
    for name in _PARTS:
        weight._buffers[name] = getattr(packed, name)
    facts = json.dumps({"recipe": recipe, "columns": packed.columns}).encode()
    weight._buffers["facts"] = torch.tensor(list(facts), dtype=torch.uint8, device=codes.device)
    weight.recipe, weight.columns = recipe, packed.columns
    return weight
