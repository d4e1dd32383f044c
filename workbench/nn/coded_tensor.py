"""The tensor that travels between the layers: codes and scales that autograd can carry."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from workbench.nn.codes import Codes
from workbench.nn.compiled import outside_graphs

__all__ = ["CodedTensor"]

_ATEN = torch.ops.aten
#: Operators that give other leading dimensions to the same matrix, where they keep the last one.
_VIEWS = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)
_SAME = (_ATEN.detach.default, _ATEN.alias.default, _ATEN.clone.default)


#: Codes and a dtype to the numbers that they stand for, (rows, cols).
Dequantizer = Callable[[Codes, torch.dtype], torch.Tensor]


class CodedTensor(torch.Tensor):
    """A tensor of 16-bit numbers that is stored as codes and scales of its rows.

    It has the shape and dtype of the tensor that it stands for, and no memory of that size.  The
    layers here read and write its codes; any other operator gets it dequantised to ``dtype``, so
    what no layer knows runs in high precision.  Where two gradients meet, 16-bit numbers are added.

    It never changes: ``x += y`` makes a new tensor, as for a number, operators that write to it are
    refused, and so are writes to a part of it (``x[0]``, ``x.chunk(3)``) that has a gradient.
    Without one, a part is a tensor of its own.
    """

    codes: Codes
    dequantizer: Dequantizer | None

    @staticmethod
    def __new__(
        cls,
        codes: Codes,
        shape: Sequence[int],
        dtype: torch.dtype,
        dequantizer: Dequantizer | None = None,
    ) -> "CodedTensor":
        """Wrap the codes of a matrix.

        Args:
            codes: of the matrix (product of the leading dimensions, last dimension).
            shape: of the tensor.
            dtype: what other operators see.
            dequantizer: makes numbers of the codes in a dtype, as a backend's kernels do; default:
                the codec, which takes several passes.
        Raises:
            ValueError: the shape is not that of the matrix.
        """
        rows, cols = codes.shape
        leading = 1
        for extent in shape[:-1]:
            leading *= extent
        if not shape or (leading, shape[-1]) != (rows, cols):
            raise ValueError(f"shape {tuple(shape)} is not that of codes of {rows} x {cols}")
        made: CodedTensor = torch.Tensor._make_wrapper_subclass(
            cls, torch.Size(shape), dtype=dtype, device=codes.device
        )
        made.codes = codes
        made.dequantizer = dequantizer
        return made

    def reshaped(self, shape: Sequence[int]) -> "CodedTensor":
        """The same codes under another shape of as many rows."""
        return CodedTensor(self.codes, shape, self.dtype, self.dequantizer)

    @outside_graphs
    def dequantized(self) -> torch.Tensor:
        """The plain tensor, outside of autograd."""
        if self.dequantizer is None:
            return self.codes.dequantize(self.dtype).view(self.shape)
        return self.dequantizer(self.codes, self.dtype).view(self.shape)

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes a keyword of its own
        return f"CodedTensor({tuple(self.shape)}, {self.codes.format}, {self.dtype})"

    @classmethod
    @outside_graphs
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What autograd takes for a part of codes is computed: a write would not reach them."""
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                return _not_to_be_written(made)
            if type(made) in (tuple, list):
                return tree_map_only(torch.Tensor, _not_to_be_written, made)
            return made

    @classmethod
    @outside_graphs
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub is no class method
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Keep codes through changes of the leading dimensions, dequantise for all else."""
        first = args[0] if args else None
        if isinstance(first, CodedTensor):
            if func in _SAME:
                return first.reshaped(first.shape)
            if func in _VIEWS and (shape := _rows_kept(first, args[1])) is not None:
                return first.reshaped(shape)
        for written in _written(func, args, kwargs or {}):
            raise TypeError(
                f"{func} writes to a quantised tensor of shape {tuple(written.shape)}: use its "
                "form that returns a new one"
            )
        plain: Callable[[Any], Any] = CodedTensor.dequantized
        return func(
            *tree_map_only(CodedTensor, plain, args),
            **tree_map_only(CodedTensor, plain, kwargs or {}),
        )


class _Computed(torch.autograd.Function):
    """The tensor itself; autograd refuses writes to a view that a function of its own returns."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        return dy


def _not_to_be_written(made: torch.Tensor) -> torch.Tensor:
    plain = not isinstance(made, CodedTensor) and made.requires_grad and made._is_view()
    if not plain or not isinstance(made._base, CodedTensor):
        return made
    part: torch.Tensor = _Computed.apply(made)  # type: ignore[no-untyped-call]  # torch
    return part


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[CodedTensor]:
    """The tensors in codes that an operator would write to, in lists of tensors too."""
    if not func._schema.is_mutable:
        return []
    found: list[CodedTensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        found += [leaf for leaf in tree_leaves(given) if isinstance(leaf, CodedTensor)]
    return found


def _rows_kept(tensor: CodedTensor, asked: Sequence[int]) -> list[int] | None:
    """The asked shape in full, if its last dimension is the tensor's own."""
    shape = list(asked)
    if -1 in shape:
        known = 1
        for extent in shape:
            known *= extent if extent != -1 else 1
        if known == 0 or tensor.numel() % known:
            return None
        shape[shape.index(-1)] = tensor.numel() // known
    return shape if shape and shape[-1] == tensor.shape[-1] else None
