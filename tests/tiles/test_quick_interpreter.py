"""The quick interpreter answers as Triton's own, and looks through the language once a launch."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import triton.language as tl  # noqa: E402 - triton is optional
from triton.runtime import interpreter  # noqa: E402

from tiles.kernels.quick_interpreter import quick_interpreter  # noqa: E402


def _scaled(x, factor):
    return tl.exp(x) * factor - tl.abs(x)


def _kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    for _ in range(3):
        x = scaled(x, 0.5)
    tl.store(out_ptr + at, x)


#: As ``triton.jit`` makes them where TRITON_INTERPRET is set.
scaled = interpreter.InterpretedFunction(_scaled)
kernel = interpreter.InterpretedFunction(_kernel)


def _launched(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, int]:
    """What the kernel wrote, and how often the language was searched for it."""
    searched: list[Any] = []
    search = interpreter._patch_lang

    def counted(function: Any) -> Any:
        searched.append(function)
        return search(function)

    x, out = torch.linspace(-2, 2, 64), torch.full((64,), torch.nan)
    with monkeypatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", counted)
        with quick_interpreter():
            kernel[(4,)](x, out, BLOCK=16)
            kernel[(4,)](x, out, BLOCK=16)
    return out, len(searched)


def test_it_answers_the_same_and_searches_once_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, wanted = torch.linspace(-2, 2, 64), torch.full((64,), torch.nan)
    kernel[(4,)](x, wanted, BLOCK=16)
    got, searched = _launched(monkeypatch)
    assert searched == 2  # 26 by the interpreter itself
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_it_leaves_the_language_and_the_interpreter_as_they_were() -> None:
    search = interpreter._patch_lang
    with quick_interpreter():
        assert interpreter._patch_lang is not search
        kernel[(4,)](torch.ones(64), torch.empty(64), BLOCK=16)
        assert tl.core.is_builtin(tl.load)
    assert interpreter._patch_lang is search


def test_a_language_that_is_not_replaced_yet_is_replaced() -> None:
    """A device function called before any launch, by its own or after one has ended."""
    with quick_interpreter():
        scope = interpreter._patch_lang(_kernel)
        assert not tl.core.is_builtin(tl.load)
        within = interpreter._patch_lang(_scaled)
        within.restore()
        assert not tl.core.is_builtin(tl.load)
        scope.restore()
        assert tl.core.is_builtin(tl.load)
