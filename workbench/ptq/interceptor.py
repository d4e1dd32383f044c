"""Meets the functions that a model calls between its layers: products, sums, norms.

A ``TorchFunctionMode`` is on while any module of the model runs.  It sees what Python code calls,
``a @ b`` and ``F.scaled_dot_product_attention`` among it, in any model and however its control flow
goes; tracing (``torch.fx``) would need a graph that many models do not have, and rewriting a
model's code would be one version of one library.  What it does not see: calls inside compiled or
scripted code, and inside fused C++ functions, which the mode keeps torch's own layers from taking.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tiles.formats import TensorFormat
from workbench.ptq import calls
from workbench.ptq.attention_call import attention
from workbench.ptq.formats import refusal, roles
from workbench.ptq.frames import Followed, Frames
from workbench.ptq.listed import LISTED
from workbench.ptq.masks import MASKED, masked
from workbench.ptq.matmul import MatMul
from workbench.ptq.operand import Operand
from workbench.ptq.operator import Operator, Phase, Session
from workbench.ptq.scheme import Kind
from workbench.ptq.weight_operand import WeightOperand

__all__ = ["REPLACED", "Interceptor", "new_operator"]

#: Layers that have classes of their own here; their functions are not looked at.
REPLACED: dict[type[nn.Module], Kind] = {
    nn.Linear: Kind.LINEAR,
    nn.Conv1d: Kind.CONV,
    nn.Conv2d: Kind.CONV,
    nn.Embedding: Kind.EMBEDDING,
    nn.EmbeddingBag: Kind.EMBEDDING,
}

#: Modules whose one function has the module's own name.
_NAMED = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, MatMul)


class _Mode(TorchFunctionMode):
    def __init__(self, interceptor: "Interceptor") -> None:
        super().__init__()
        self.interceptor = interceptor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.interceptor.call(func, args, kwargs or {})


class Interceptor:
    """Knows which module runs, and gives the functions that it calls to their operators."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._frames = Frames()
        self._followed: set[nn.Module] = set()

    def attach(self, model: nn.Module) -> None:
        """Follow the calls of a model's modules, whichever of them is called first.

        Called again it follows modules that were put into the model since.
        """
        for name, module in model.named_modules():
            # Scripted code calls nothing that could be met.
            if module in self._followed or isinstance(module, torch.jit.ScriptModule):
                continue
            self._followed.add(module)
            module.forward = Followed(module, name, self._inside, self._launches)

    def _launches(self, given: Any) -> bool:
        """True where layers may run on kernels: numbers are computed anywhere, as in a graph."""
        tensors = (leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))
        return self.session.launches or any(x.device.type != "cpu" for x in tensors)

    @contextmanager
    def _inside(self, module: nn.Module, name: str) -> Iterator[None]:
        running = self._frames.running
        running.append((module, name, Counter()))
        try:
            if len(running) > 1:
                yield
            else:
                with _Mode(self):
                    yield
        finally:
            running.pop()

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an intercepted function returns."""
        if self.session.phase in (Phase.EXACT, Phase.CHANNELS) or not self._frames.running:
            return func(*args, **kwargs)
        module, name, _ = self._frames.running[-1]
        if type(module) in REPLACED:  # a layer that stays in high precision
            return func(*args, **kwargs)
        if func is calls.ATTENTION:
            return self._attention(args, kwargs)
        plain = calls.IN_PLACE.get(func, func)
        found = calls.CALLS.get(plain)
        if found is None:
            if func in LISTED and name not in self.session.unknown:
                place = self._place(LISTED[func])
                self.session.unknown.setdefault(
                    place, f"{self.session.recipe.name} has no such operator"
                )
            return func(*args, **kwargs)
        given = {key: value for key, value in kwargs.items() if key != "out"}
        if found.values(args, given) is None:
            if found.missed(args, given):
                self.session.unknown.setdefault(self._place(str(found.kind)), calls.MISSED)
            return func(*args, **kwargs)
        # Computed beside the tensor that it is to be written into: both ways may be needed.
        y = self._apply(found, lambda: plain(*args, **given), args, given)
        if plain is not func:
            return args[0].copy_(y)
        out = kwargs.get("out")
        # A product by one changes no bit, and is written as torch writes every ``out``.
        return y if out is None else torch.mul(y, 1, out=out)

    def _place(self, what: str) -> str:
        """A name for a call: the module that makes it, what it is, and which of them."""
        module, name, counts = self._frames.running[-1]
        counts[what] += 1
        if counts[what] == 1 and isinstance(module, _NAMED):
            return name
        number = "" if counts[what] == 1 else f".{counts[what]}"
        return f"{name}:{what}{number}"

    def _apply(
        self,
        found: calls.Call,
        exact: Callable[[], torch.Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        values = found.values(args, kwargs)
        if values is None:
            return exact()
        weight = found.weight(args, kwargs)
        kind = Kind.LINEAR if weight is not None and found.kind is Kind.MATMUL else found.kind
        place = self._place(str(kind))
        operator = self._operator(place, kind, values, weight is not None)
        if operator is None:
            return exact()
        if self.session.phase is Phase.OBSERVE and weight is not None:
            if not bool(weight.isfinite().all()):
                raise ValueError(
                    f"the weight of {place} holds NaN or infinite values: mend the model first"
                )
        return operator.apply(exact, lambda: found.rounded(operator, args, kwargs), values)

    def _operator(
        self, place: str, kind: Kind, values: dict[str, torch.Tensor], weighted: bool
    ) -> Operator | None:
        session = self.session
        operator = session.operators.get(place)
        if operator is None:
            reason = self._refusal(kind, weighted)
            if reason or session.found:
                # Else a path through the model that calibration did not take.
                session.unknown.setdefault(place, reason or "not met in calibration")
                return None
            weight = session.recipe.weight if weighted else None
            operator = new_operator(place, kind, session, weight)
        if session.phase is Phase.OBSERVE and kind in (Kind.ADD, Kind.MUL) and not operator.kept:
            for role, x in values.items():
                if bool(masked(x).any()) and not bool(x.isnan().any()):
                    operator.kept = f"its {role} operand is a mask: {MASKED}"
        return None if operator.kept else operator

    def _refusal(self, kind: Kind, weighted: bool) -> str:
        session = self.session
        if weighted and session.recipe.outliers is not None:
            return "outlier columns are set apart in nn.Linear alone"
        return refusal(kind, session.recipe, session.scheme.kinds, str(session.scheme))

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._refusal(Kind.MATMUL, False):
            self._operator(self._place("attention"), Kind.MATMUL, {}, False)
            return calls.ATTENTION(*args, **kwargs)
        return attention(
            self._attention_product(self._place("attention.scores")),
            self._attention_product(self._place("attention.values")),
            *args,
            **kwargs,
        )

    def _attention_product(
        self, place: str
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        found = calls.CALLS[torch.matmul]

        def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            values = {"left": left, "right": right}
            operator = self._operator(place, Kind.MATMUL, values, False)
            if operator is None:
                return left @ right
            return operator.apply(
                lambda: left @ right,
                lambda: found.rounded(operator, (left, right), {}),
                values,
            )

        return product


def new_operator(place: str, kind: Kind, session: Session, weight: TensorFormat | None) -> Operator:
    """An operator of an intercepted function, without scales yet.

    Args:
        weight: format of the weight that it multiplies by, if it does.
    """
    operands = {
        role: Operand(fmt, session.scheme.calibration, dynamic=session.scheme.dynamic)
        for role, fmt in roles(kind, session.recipe).items()
    }
    operator = Operator(place, kind, session, operands)
    if weight is not None:
        operator.weight = WeightOperand(weight)
    return operator
