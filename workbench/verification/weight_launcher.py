"""Without a GPU: whether the launcher of the weight-only product takes what it must."""

from collections.abc import Mapping
from typing import Any

from workbench.verification.hopper_launcher import fake_array, judge_product
from workbench.verification.recorder import Recorder

__all__ = ["judge_launcher"]

M, N, PANELS, PANEL_BYTES = 8, 64, 4, 64


def judge_launcher(
    check: Recorder,
    template: Any,
    *,
    layout: Mapping[str, Any],
    out: str,
    config: Mapping[str, int | bool],
) -> None:
    """Whether a launcher takes a configuration, and refuses what it cannot do.

    Args:
        check: takes the verdict.
        template: the launcher's module in the package.
        layout: the configuration file's.
        out: output format.
        config: the tuned configuration.
    """
    element, group = layout["activation"], layout["block"][1]
    formats = {
        "element": element,
        "out": out,
        "weight": layout["element"],
        "scale_format": layout["stored"] if group else "",
        "group": group,
    }
    options = template.options(**formats, config=config)
    check.expect("-arch=sm_90a" in options, f"compiled with {options}")
    panel = PANEL_BYTES * 8 // layout["bits"]
    k = PANELS * panel
    grid = (-(-k // group), N) if group >= panel else (PANELS, N, panel // max(group, 1))
    scale = fake_array(grid, layout["stored"]) if group else None
    good: dict[str, Any] = {
        "x": fake_array((M, k), element),
        "codes": fake_array((PANELS, N, PANEL_BYTES), "bytes"),
        "c": fake_array((M, N), out),
        "scale": scale,
        "zero": fake_array(grid, "bytes") if layout["element"].startswith("u") else None,
        "row_scale": fake_array((N,), "fp32"),
    }
    asked = {**formats, "config": config, **good}
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "rows off a 16-byte boundary": (
            {"x": fake_array((M, k), element, off=8)},
            "multiples of 16 bytes",
        ),
        "an output of another shape": ({"c": fake_array((M, N + 16), out)}, "c has shape"),
        "scales that are missing" if group else "scales that it does not need": (
            {"scale": None if group else fake_array((PANELS, N), "fp32")},
            "scale is",
        ),
    }
    judge_product(check, template, formats, asked, wrong)
