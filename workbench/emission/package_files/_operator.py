"""PyTorch operators made from a signature: one that makes its outputs, one that writes into yours.

Neither has a derivative.  Shapes alone are worked out by the function that makes the outputs, so
both work under ``torch.compile(fullgraph=True)``.
"""

import string
from collections.abc import Callable
from typing import Any

import torch

from ._ops import add_op_namespace_prefix

#: Reads the inputs of an operator.
Make = Callable[..., Any]
#: Reads the inputs of an operator and writes its outputs, which come last.
Launch = Callable[..., None]


def operator(
    name: str, inputs: str, outputs: str, *, empty: Make, launch: Launch, wanted: str = ""
) -> tuple[Any, Any]:
    """Register ``name``, which makes its outputs, and ``name_out``, which takes them.

    Args:
        name: of the function.
        inputs: what both are told, as a schema has it: "Tensor a, Tensor? a_scale, str recipe".
        outputs: names of the tensors that are written: "codes, scales".
        empty: of inputs and wanted: the output, or a tuple of the outputs, not yet written.
        launch: of inputs and outputs: writes them.
        wanted: what ``name`` alone is told of its outputs: "ScalarType out_dtype".
    Returns:
        Both operators, to be called with positional arguments in this order.
    """
    names = outputs.split(", ")
    results = "Tensor" if len(names) == 1 else f"({', '.join(['Tensor'] * len(names))})"
    told = ", ".join(filter(None, (inputs, wanted)))
    kept = len(inputs.split(", "))
    make = making(name, f"({told}) -> {results}", empty=empty, launch=launch, kept=kept)
    written = zip(string.ascii_lowercase, names, strict=False)
    mutable = ", ".join(f"Tensor({alias}!) {output}" for alias, output in written)

    def write(*arguments: Any) -> None:
        launch(*arguments)

    into = torch.library.custom_op(
        add_op_namespace_prefix(f"{name}_out"),
        write,
        mutates_args=names,
        schema=f"({inputs}, {mutable}) -> ()",
    )
    into.register_fake(lambda *arguments: None)
    return make, into


def making(name: str, schema: str, *, empty: Make, launch: Launch, kept: int | None = None) -> Any:
    """Register an operator that makes its outputs.

    Args:
        name: of the function.
        schema: "(Tensor x, str format) -> Tensor[]".
        empty: of all arguments: the output, or a tuple or list of them, not yet written.
        launch: of the arguments and then the outputs: writes them.
        kept: of the arguments, those at the front that ``launch`` is given; default: all.
    """

    def make(*arguments: Any) -> Any:
        outputs = empty(*arguments)
        several = isinstance(outputs, tuple | list)
        launch(*arguments[:kept], *(outputs if several else (outputs,)))
        return outputs

    made = torch.library.custom_op(
        add_op_namespace_prefix(name), make, mutates_args=(), schema=schema
    )
    made.register_fake(empty)
    return made
