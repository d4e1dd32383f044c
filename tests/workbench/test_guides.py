"""The guides' snippets print what stands below them, and every guide can be found."""

import re
from pathlib import Path

import pytest
import typer.main
from documented import renew, run_page

from tuning.visible_gpu import visible_gpu
from workbench.cli import app

DOCS = Path(__file__).parents[2] / "docs"

#: Least number of commands and Python examples that each guide has; those that take longer than a
#: second are slow ones.
GUIDES = {
    "predict.md": 6,
    "papers.md": 2,
    "add-format.md": 8,
    "add-gpu.md": 8,
    "add-kernel.md": 11,
}
SLOW = {
    "calibration.md": 3,
    "deploy.md": 6,
    "emit.md": 10,
    "quantization.md": 30,
    "report.md": 7,
    "search.md": 4,
    "sweep.md": 7,
    "training.md": 25,
    "verify.md": 5,
}


@pytest.mark.parametrize(
    ("name", "least"),
    [*GUIDES.items(), *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW.items())],
)
def test_the_snippets_print_what_stands_there(name: str, least: int, tmp_path: Path) -> None:
    if name == "verify.md" and visible_gpu() is not None:
        pytest.skip("the guide shows a machine without a GPU")
    assert run_page(DOCS / name, tmp_path) >= least


def test_every_guide_is_run_and_stands_in_the_readme() -> None:
    guides = {p.name for p in DOCS.glob("*.md") if p.read_text().startswith("# Guide: ")}
    assert guides == {*GUIDES, *SLOW} - {"papers.md", "search.md", "training.md"}
    readme = (DOCS.parent / "README.md").read_text()
    assert [name for name in sorted(guides) if f"(docs/{name})" not in readme] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs"])
def test_every_verb_and_option_that_a_page_names_is_there(page: str) -> None:
    """Also where a command is named in a sentence, or needs a GPU and so is not run."""
    path = DOCS.parent / page
    verbs = {
        name: {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    }
    found = 0
    for file in sorted(path.glob("*.md")) if path.is_dir() else [path]:
        text = file.read_text(encoding="utf-8")
        for command in re.finditer(r"(?:`|^\$ |^)workbench ([a-z][a-z-]+)([^`\n#|]*)", text, re.M):
            verb, rest = command.groups()
            where = f"{file.name}: {command[0].strip()}"
            assert verb in verbs, where
            options = set(re.findall(r"(?<!\S)(--[a-z0-9-]+|-[a-z])\b", rest))
            assert options <= verbs[verb], f"{where}: {sorted(options - verbs[verb])}"
            found += 1
    assert found >= {"README.md": 8, "CONTRIBUTING.md": 0, "docs": 60}[page]


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ workbench gpus --json\nsomething else\n```\n",
        "```console\n$ workbench predict --gpu nowhere --shape 1x1x1\n...\n```\n",
        "```console\n$ workbench predict --gpu h200 --shape 8x8x8 --recipe bf16\nerror: ...\n```\n",
        "```console\n$ false\n```\n",
        "```console\nno command\n```\n",
        "```pycon\n>>> 1 + 1\n3\n\n```\n",
    ],
)
def test_a_page_that_is_wrong_fails(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError):
        run_page(page, tmp_path)


def test_outputs_are_written_anew_where_nothing_is_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```yaml\n# a.txt\n```\nwords\n```console\n$ cat a.txt\nold\n$ echo new\n...\n```\n"
    )
    renew(page, tmp_path)
    assert page.read_text().endswith(
        "words\n```console\n$ cat a.txt\n# a.txt\n$ echo new\n...\n```\n"
    )
    assert run_page(page, tmp_path) == 2


def test_what_a_command_prints_goes_into_the_file_that_its_line_names(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ workbench gpus --json > gpus.json\n$ head -2 gpus.json\n...\n```\n"
    )
    assert run_page(page, tmp_path) == 2
    assert '"schema": "tile-workbench/gpus/1"' in (tmp_path / "gpus.json").read_text()
    page.write_text("```console\n$ workbench gpus --jsn > more.json\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path)
    assert not (tmp_path / "more.json").exists()
