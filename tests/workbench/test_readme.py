"""The README's outputs are real: its tables are rebuilt from the evidence and from the code.

``python tests/workbench/test_readme.py`` prints the tables anew, ``python
tests/workbench/documented.py README.md`` writes what commands print.
"""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documented import run_page

from tuning.visible_gpu import visible_gpu

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
EVIDENCE = ROOT / "evidence" / "h200"
MATMUL = "torch.matmul bf16"
ROW = "torch._scaled_mm row, fast accumulation"
TENSOR = "torch._scaled_mm tensor, fast accumulation"
BLOCK = "torch._scaled_mm 1x128 by 128x128"
INTEGER = "torch._int_mm"


def measured_us(run: str) -> dict[str, dict[str, float]]:
    """Shape to contender to microseconds, from the verification of a run's package."""
    report = json.loads((EVIDENCE / run / "verify.json").read_text())
    assert report["passed"]
    assert report["device"] == "cuda"
    shapes: dict[str, dict[str, float]] = {}
    for line in report["rivals"]:
        kind, shape, *own = line["problem"].split(":")
        if kind == "gemm" and line["time_us"] is not None:
            name = own[0] if own else line["rival"]
            shapes.setdefault(shape, {})[name] = line["time_us"]
    return shapes


def llama_table() -> str:
    """Measured speed-up over cuBLAS bf16 of our kernels and of the vendor's, by shape."""
    own = ("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128", "jetfire")
    heads = [
        "M x N x K",
        "cuBLAS bf16 us",
        *own,
        "`_scaled_mm` row",
        "`_scaled_mm` 1x128",
        "`_int_mm`",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for shape, times in measured_us("llama-3-8b").items():
        base = times[MATMUL]
        names = (*own, ROW, BLOCK, INTEGER)
        ratios = [f"{base / times[name]:.2f}" if name in times else "-" for name in names]
        lines.append("| " + " | ".join([shape, f"{base:.1f}", *ratios]) + " |")
    return "\n".join(lines)


def square_table() -> str:
    """Our kernel against the vendor's in the same format: vendor's time over ours."""
    pairs = (
        ("bf16", MATMUL),
        ("e4m3-tensor", TENSOR),
        ("e4m3-row", ROW),
        ("deepseek-fp8", BLOCK),
        ("int8-row", INTEGER),
    )
    lines = ["| recipe | against | 4096^3 | 8192^3 |", "|---|---|---:|---:|"]
    shapes = measured_us("square")
    for ours, vendor in pairs:
        ratios = [f"{shapes[s][vendor] / shapes[s][ours]:.2f}" for s in shapes]
        lines.append(f"| {ours} | `{vendor}` | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def test_the_tables_are_those_of_the_evidence() -> None:
    readme = README.read_text()
    assert llama_table() in readme
    assert square_table() in readme


def test_the_commands_print_what_stands_there(tmp_path: Path) -> None:
    assert run_page(README, tmp_path) == 2


def blocks() -> list[list[str]]:
    """The README's fenced blocks that name no language."""
    return [
        text.splitlines() for text in re.findall(r"\n```\n(.*?)\n```\n", README.read_text(), re.S)
    ]


def recipe_of(target: str) -> list[str]:
    """The commands of a target of the Makefile, as make prints them."""
    lines = (ROOT / "Makefile").read_text().split(f"\n{target}:")[1].splitlines()[1:]
    commands = itertools.takewhile(lambda line: line.startswith("\t"), lines)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in commands]


def test_the_two_commands_are_what_make_knows() -> None:
    commands = [line.partition("#")[0].split() for line in blocks()[0]]
    assert commands == [["make", "demo"], ["make", "test"]]
    verbs = [command.split()[1] for command in recipe_of("demo") if "workbench" in command]
    said = blocks()[0][0].partition("then ")[2].partition(" into")[0]
    assert said.split(", ") == verbs
    assert "pytest" in recipe_of("test")[-1]


@pytest.mark.slow
def test_the_demo_ends_as_it_says(tmp_path: Path) -> None:
    if visible_gpu() is not None:
        pytest.skip("the README shows a machine without a GPU")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    printed: list[str] = []
    for command in recipe_of("demo"):
        printed.append(command)
        if "/workbench" in command:
            done = subprocess.run(
                [sys.executable, "-m", *command.removeprefix(".venv/bin/").split()],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
            printed += done.stdout.splitlines()
    shown = blocks()[1]
    assert printed[-len(shown) :] == shown


def test_the_floors_that_the_kernels_must_hold_are_held() -> None:
    shapes = measured_us("square")
    assert set(shapes) == {"4096x4096x4096", "8192x8192x8192"}
    for times in shapes.values():
        assert times[MATMUL] / times["bf16"] >= 0.85
        assert times[TENSOR] / times["e4m3-tensor"] >= 0.9
        assert times[INTEGER] / times["int8-row"] >= 1.3


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by: lower case, words joined by dashes."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_link_leads_somewhere() -> None:
    for page in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)]+)", page.read_text()):
            file, _, anchor = target.partition("#")
            led = page.parent / file if file else page
            assert led.exists(), f"{page.name}: {target}"
            if anchor and led.suffix == ".md":
                assert anchor in anchors(led), f"{page.name}: {target}"


if __name__ == "__main__":
    print(llama_table(), square_table(), sep="\n\n")
