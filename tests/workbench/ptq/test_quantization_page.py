"""The page about quantisation prints what stands there."""

import doctest
import re
from pathlib import Path

import pytest
from ptq_cases import one_thread

__all__ = ["one_thread"]

PAGE = Path(__file__).parents[3] / "docs" / "quantization.md"


@pytest.mark.slow
def test_the_snippets_of_the_page_print_what_stands_there() -> None:
    text = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    test = doctest.DocTestParser().get_doctest(text, {}, "quantization.md", str(PAGE), 0)
    assert len(test.examples) > 30
    assert doctest.DocTestRunner().run(test).failed == 0


def test_every_kind_stands_in_the_table_of_the_page() -> None:
    from workbench.ptq import EXTENDED, STANDARD, Kind

    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    named: dict[str, str] = {}
    for row in rows:
        if len(row) == 6 and row[4].strip() in ("standard", "extended"):
            named |= dict.fromkeys(re.findall(r"`([a-z]+)`", row[1]), row[4].strip())
    expected = {str(kind): "extended" for kind in EXTENDED.kinds}
    assert named == expected | {str(kind): "standard" for kind in STANDARD.kinds}
    assert set(named) == {str(kind) for kind in Kind}
