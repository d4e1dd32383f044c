"""What verification asks of an operator's registration: faults planted in operators of its own."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workbench.verification.recorder import Recorder
from workbench.verification.torch_checks import judge_registration

#: Torch registers an operator once for every name of a process.
_names = itertools.count()


def judged(
    *, spoil: bool = False, fake_rows: int = 0, dtype: torch.dtype = torch.float8_e4m3fn
) -> dict[str, Any]:
    """The report on a pair of operators that copy a matrix."""
    space = f"registration_probe_{next(_names)}"

    def write(x: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(x)
        if spoil:
            x.view(torch.uint8).add_(1)

    def make(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    made = torch.library.custom_op(
        f"{space}::copy", make, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    made.register_fake(lambda x: x.new_empty(x.shape[0] + fake_rows, x.shape[1]))
    into = torch.library.custom_op(
        f"{space}::copy_out",
        write,
        mutates_args=("out",),
        schema="(Tensor x, Tensor(a!) out) -> ()",
    )
    into.register_fake(lambda x, out: None)
    lines: list[dict[str, Any]] = []
    with Recorder(lines.append, "opcheck") as check:
        x = torch.ones(4, 8).to(dtype)
        judge_registration(check, SimpleNamespace(__name__=space), "copy", (x,))  # type: ignore[arg-type]
    return lines[0]


pytestmark = pytest.mark.slow  # torch's checks load its compiler, for seconds


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float32], ids=str)
def test_both_operators_of_a_pair_are_judged(dtype: torch.dtype) -> None:
    found = judged(dtype=dtype)
    assert found["status"] == "passed", found
    judged_by = "inputs bit for bit as before" if dtype.itemsize == 1 else "test_schema"
    assert found["detail"].count(judged_by) == 2


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float32], ids=str)
def test_a_write_to_an_input_is_seen(dtype: torch.dtype) -> None:
    found = judged(spoil=True, dtype=dtype)
    assert found["status"] == "failed"
    if dtype.itemsize == 1:
        assert found["detail"].endswith("copy_out.default writes to x")


def test_a_fake_of_another_shape_is_seen() -> None:
    assert judged(fake_rows=1)["status"] == "failed"
