"""A record keeps the command that made it, and no folder of the machine that ran it."""

import json
from pathlib import Path

import pytest

from bench.command_line import recorded


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("/results/block.json", "block.json"),
        ("../out/block.json", "block.json"),
        ("~/block.json", "block.json"),
        ("--state=/tmp/a b/state", "--state=state"),
        ("/tmp/gpt.json:8x1024", "gpt.json:8x1024"),
        ("evidence/cpu/accuracy.json", "evidence/cpu/accuracy.json"),
        ("examples/models/gpt.json:8x1024", "examples/models/gpt.json:8x1024"),
        ("mlp.o*", "'mlp.o*'"),
        ("bf16,int8-row", "bf16,int8-row"),
        ("", "''"),
    ],
)
def test_files_elsewhere_are_told_by_name(word: str, told: str) -> None:
    assert recorded("bench.block", [word, "--gpu"]) == f"python -m bench.block {told} --gpu"


def test_no_record_names_a_folder_of_a_machine() -> None:
    evidence = Path(__file__).parents[2] / "evidence"
    checked = 0
    for path in evidence.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for command in _commands(content):
            checked += 1
            for folder in ("/root", "/tmp", "/work", "/home"):
                assert folder not in command, f"{path.name}: {command}"
    assert checked


def _commands(content: object) -> list[str]:
    """Every text under the name "command", however deep."""
    if isinstance(content, list):
        return [found for one in content for found in _commands(one)]
    if not isinstance(content, dict):
        return []
    own = content.get("command")
    rest = [found for one in content.values() for found in _commands(one)]
    return [own, *rest] if isinstance(own, str) else rest
