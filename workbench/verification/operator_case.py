"""One problem of an operator with its operands: how it is run, and how its answer is judged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tiles.kernels.accuracy import Reference, compare
from workbench.verification.recorder import Recorder

__all__ = ["GUARD_ROWS", "POISON", "Case", "judge_product", "poisoned"]

#: Rows behind the output that a launch must leave as they were.
GUARD_ROWS = 4
#: Bytes before a launch: a kernel that forgets some leaves them behind.
POISON = 0x55


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Operands of one problem, ways to run the package on them, and the verdict on its answer."""

    call: Callable[[], Any]  #: the public function
    launch: Callable[[Any], Any]  #: the template with a choice of the package's, as ``call``
    judge: Callable[[Recorder, Any, Any], None]  #: an answer, and the choice that gave it
    operator: str  #: the registered operator's name
    arguments: tuple[Any, ...]  #: of the operator


def poisoned(rows: int, cols: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """An output full of NaN with guard rows behind it; hand on all but those."""
    return torch.full((rows + GUARD_ROWS, cols), torch.nan, dtype=dtype, device=device)


def judge_product(check: Recorder, buffer: torch.Tensor, reference: Reference, shape: str) -> None:
    """Compare a product with its fp64 reference under the a-priori bound.

    Args:
        check: takes the verdict.
        buffer: what :func:`poisoned` made, written by the launch.
        reference: exact product and limits.
        shape: told where the check passes.
    """
    out, behind = buffer[:-GUARD_ROWS], buffer[-GUARD_ROWS:]
    check.expect(bool(behind.isnan().all()), "rows behind the output were written to")
    accuracy = compare(out, reference)
    check.expect(accuracy.ok, accuracy.reason)
    check.note(
        f"{shape}: error at most {accuracy.max_error_over_bound:.3g} of the bound, relative rms "
        f"error {accuracy.relative_rms:.3g}"
    )
