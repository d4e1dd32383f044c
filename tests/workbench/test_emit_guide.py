"""The snippets of the guide print what stands there, and its table lists what there is."""

import doctest
import re
from pathlib import Path

import pytest

from workbench.emission.hub_configs import EXTENTS
from workbench.emission.targets import TARGETS

PAGE = Path(__file__).parents[2] / "docs" / "emit.md"


@pytest.mark.slow
def test_the_snippets_of_the_guide_print_what_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    test = doctest.DocTestParser().get_doctest(text, {}, "emit.md", str(PAGE), 0)
    assert len(test.examples) > 10
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_guide_lists_every_target_with_its_options() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)`.*\| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    listed = {name: tuple(re.findall(r"`--([a-z-]+)`", options)) for name, options in rows}
    assert listed == {
        one.name: tuple(name.replace("_", "-") for name in one.options) for one in TARGETS.values()
    }


def test_the_guide_names_the_functions_of_hub_kernels() -> None:
    (line,) = re.findall(r"\*\*What goes in\*\*: (.*?), on NVIDIA", PAGE.read_text(), re.S)
    assert tuple(re.findall(r"`(\w+)`", line)) == tuple(EXTENTS)
