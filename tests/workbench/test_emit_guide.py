"""The guide's table lists what there is."""

import re
from pathlib import Path

from workbench.emission.hub_configs import EXTENTS
from workbench.emission.targets import TARGETS

PAGE = Path(__file__).parents[2] / "docs" / "emit.md"


def test_the_guide_lists_every_target_with_its_options() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)`.*\| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    listed = {name: tuple(re.findall(r"`--([a-z-]+)`", options)) for name, options in rows}
    assert listed == {
        one.name: tuple(name.replace("_", "-") for name in one.options) for one in TARGETS.values()
    }


def test_the_guide_names_the_functions_of_hub_kernels() -> None:
    (line,) = re.findall(r"\*\*What goes in\*\*: (.*?), on NVIDIA", PAGE.read_text(), re.S)
    assert tuple(re.findall(r"`(\w+)`", line)) == tuple(EXTENTS)
