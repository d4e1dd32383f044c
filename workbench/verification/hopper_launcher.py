"""Without a GPU: whether a launcher of a CUDA C++ product takes what it must, and nothing else.

A launcher is handed arrays without memory behind them.  Good ones must bring it as far as the
device, where it is stopped; of bad ones its message must name what is wrong.
"""

import contextlib
import itertools
from collections.abc import Callable, Mapping
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np

from workbench.verification.recorder import Recorder

__all__ = [
    "FakeDevice",
    "expect_refusals",
    "fake_array",
    "judge_launcher",
    "judge_product",
    "refusal",
]

#: CuPy has no bfloat16 and no 8-bit floats: the launcher takes their bits.
VIEWS = {"bf16": "uint16", "fp16": "float16", "fp32": "float32", "int8": "int8"}
VIEWS |= {"mxint8": "int8", "int64": "int64", "int32": "int32"}
_addresses = itertools.count(1 << 30, 1 << 30)


class _DeviceReached(Exception):
    """All checks are passed."""


class FakeDevice:
    """Where a fake array lies: nothing can be done on it."""

    id = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeDevice)

    __hash__ = None  # type: ignore[assignment]

    def __enter__(self) -> None:
        raise _DeviceReached

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


def fake_array(shape: tuple[int, ...], name: str, *, columns: bool = False, off: int = 0) -> Any:
    """What a launcher looks at in a CuPy array; there is no memory behind it.

    Args:
        shape: its extents.
        name: element, or "int64".
        columns: of each matrix the columns are contiguous, not the rows.
        off: bytes off a boundary.
    """
    dtype = np.dtype(VIEWS.get(name, "uint8"))
    rows, cols = (1, *shape)[-2:]
    matrices = shape[:-2]
    within = (1, rows) if columns else (cols, 1)
    strides = (*(rows * cols for _ in matrices), *within)[-len(shape) :]
    return SimpleNamespace(
        shape=shape,
        ndim=len(shape),
        dtype=dtype,
        size=int(np.prod(shape)),
        itemsize=dtype.itemsize,
        nbytes=int(np.prod(shape)) * dtype.itemsize,
        strides=tuple(stride * dtype.itemsize for stride in strides),
        flags=SimpleNamespace(c_contiguous=not columns),
        data=SimpleNamespace(ptr=next(_addresses) + off),
        device=FakeDevice(),
    )


def refusal(launch: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """What a launcher says to arguments; '' where it takes them."""
    try:
        with contextlib.suppress(_DeviceReached):
            launch(**arguments)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def expect_refusals(
    check: Recorder,
    launch: Callable[..., Any],
    good: Mapping[str, Any],
    wrong: Mapping[str, tuple[Mapping[str, Any], str]],
) -> None:
    """Whether a launcher takes arguments, and refuses changes to them with the words that say why.

    Args:
        check: takes the verdict.
        launch: the launcher of a package.
        good: its arguments, without memory behind them.
        wrong: by what it is: a change, and words of the refusal.
    """
    said = refusal(launch, good)
    check.expect(not said, f"the launcher refuses its own: {said}")
    for what, (change, words) in wrong.items():
        said = refusal(launch, {**good, **change})
        check.expect(words in said, said or f"the launcher takes {what}")


def judge_product(
    check: Recorder,
    template: Any,
    formats: Mapping[str, Any],
    good: Mapping[str, Any],
    wrong: Mapping[str, tuple[Mapping[str, Any], str]],
) -> None:
    """The same of a product's launcher, whose compiler options tell fields that it does not know.

    Args:
        check: takes the verdict.
        template: the launcher's module in the package.
        formats: of its compiler options.
        good, wrong: as :func:`expect_refusals` takes them, a configuration among them.
    """
    expect_refusals(check, template.launch, good, wrong)
    said = refusal(template.options, {**formats, "config": {**good["config"], "warps": 4}})
    check.expect("warps" in said, "the launcher takes a configuration with an unknown field")
    check.note(f"takes the configuration; refuses {', '.join(wrong)}, an unknown field")


def _scales(
    shape: tuple[int, ...], block: tuple[int, int], *, columns: bool, stored: str = "fp32"
) -> Any:
    grid = [
        -(-extent // under) if under else 1 for extent, under in zip(shape[-2:], block, strict=True)
    ]
    return fake_array((*shape[:-2], *grid), stored, columns=columns and block[1] != 0)


def judge_launcher(
    check: Recorder,
    template: Any,
    *,
    layout: Mapping[str, Any],
    out: str,
    config: Mapping[str, int | bool],
    both: bool,
    experts: int = 0,
) -> None:
    """Whether a launcher takes a configuration, and refuses what it cannot do.

    Args:
        check: takes the verdict.
        template: the launcher's module in the package.
        layout: the configuration file's.
        out: output format.
        config: the tuned configuration.
        both: scales of single rows have their columns contiguous on both sides.
        experts: of a grouped product with contiguous rows; 0: a plain product.
    """
    element = layout["a_element"]
    formats = {"element": element, "out": out, "scales": layout["scales"]}
    options = template.options(**formats, config=config)
    check.expect("-arch=sm_90a" in options, f"compiled with {options}")
    m, n, k = 64, 128, 256
    weights = (experts, n, k) if experts else (n, k)
    held, _, block = out.partition(".")
    good = {
        "a": fake_array((m, k), element),
        "b": fake_array(weights, element),
        "c": fake_array((m, n), held),
    }
    as_bytes = layout["scales"] == "mx"  # row-major
    stored = "e8m0fnu" if as_bytes else "fp32"
    for name, shape, columns in (("a", (m, k), not as_bytes), ("b", weights, both)):
        under = layout[f"{name}_block"]
        made = None
        if under is not None:
            made = _scales(shape, under, columns=columns and under[0] == 1, stored=stored)
        good[f"{name}_scale"] = made
    if block:
        side = layout["out_block"]
        good["c_scale"] = _scales((m, n), (side, side), columns=False)
    if hasattr(template, "workspace_bytes"):
        good["workspace"] = fake_array((template.workspace_bytes(m, n, k),), "uint8")
    if experts:
        good["offsets"] = fake_array((experts + 1,), "int64")
    asked = {**formats, "config": config, **good}
    scaled = good["a_scale"] is not None
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "rows off a 16-byte boundary": (
            {"a": fake_array((m, k), element, off=8)},
            "multiples of 16 bytes",
        ),
        "an output of another shape": ({"c": fake_array((m, n + 16), held)}, "c has shape"),
        "scales that are missing" if scaled else "scales that it does not need": (
            {"a_scale": None if scaled else fake_array((m, 1), "fp32")},
            "a_scale is",
        ),
    }
    judge_product(check, template, formats, asked, wrong)
