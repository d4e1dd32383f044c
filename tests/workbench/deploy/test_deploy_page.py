"""The page about tuned files: its snippets run, and its table is the catalogue."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from workbench.cli import main
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


@pytest.mark.slow
def test_the_snippets_do_what_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.S)
    assert [kind for kind, _ in blocks] == ["python", "console", "console"]
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, "deploy.md", "exec"), {})
            continue
        for command, expected in re.findall(r"\$ (.*)\n((?:[^$].*\n)*)", text):
            monkeypatch.setattr(sys, "argv", shlex.split(command))
            capsys.readouterr()
            with pytest.raises(SystemExit):
                main()
            printed = capsys.readouterr()
            assert printed.out + printed.err == expected
