"""The page about quantisation lists every kind of operator."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "quantization.md"


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
