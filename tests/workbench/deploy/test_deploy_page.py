"""The page about tuned files: its tables are the catalogue."""

import re
from pathlib import Path

from workbench.deploy.families import FAMILIES
from workbench.deploy.rules import RULES

PAGE = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_every_rule_stands_in_the_table_of_the_page() -> None:
    rows = re.findall(r"\| `([a-z]+\.[a-z0-9-]+)` \| (\w+) \| (yes|) \| (.*) \|", PAGE)
    assert rows == [
        (rule.name, rule.effect.value, "yes" if rule.fixed else "", rule.about)
        for rule in RULES.values()
    ]


def test_every_family_stands_on_the_page_with_its_folder() -> None:
    for family in FAMILIES.values():
        assert f"| `{family.name}` |" in PAGE
    assert FAMILIES["vllm-linear"].folder in PAGE
    assert FAMILIES["sglang-linear"].folder in PAGE
