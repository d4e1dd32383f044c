"""The verbs convert and lint on the command line: exit codes, one line for a mistake."""

import json
from pathlib import Path

import pytest
from command_line import Call, is_mistake
from tuned_folders import BODY, ENTRY, FP8, FP8_SPACED, clean, write

import workbench

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_a_clean_folder_is_one_line(call: Call, tmp_path: Path) -> None:
    clean(tmp_path / "configs", "sglang-linear")
    assert call("lint", "configs") == (0, "2 files (sglang-linear): no findings\n", "")


def test_findings_are_lines_and_exit_code_1(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "configs", {FP8: {"1": ENTRY | {"num_stages": "3"}}})
    line = "M 1: num_stages '3': takes an integer, write 3 [entry.type] (--fix)"
    code, out, err = call("lint", "configs")
    assert (code, err) == (1, "")
    assert out == f"{FP8}: crash: {line}\n1 files (vllm-linear): 1 findings\n"
    code, out, _ = call("lint", "configs", "--json")
    assert code == 1
    assert json.loads(out)["findings"][0]["rule"] == "entry.type"
    code, out, _ = call("lint", "configs", "--fix")
    assert code == 0
    assert out == (
        f"mended: {FP8}: wrote {FP8} (entry.type)\n"
        "1 files (vllm-linear): no findings, 1 files mended\n"
    )


def test_convert_prints_what_it_wrote(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "configs", {FP8: BODY})
    code, out, err = call("convert", "configs", "--to", "sglang-linear", "-o", "out")
    assert (code, err) == (0, "")
    assert out == f"out/{FP8_SPACED}\n1 files converted, 0 not\n"


def test_what_is_left_is_exit_code_1(call: Call, tmp_path: Path) -> None:
    clean(tmp_path / "configs", "vllm-linear")
    code, out, _ = call("convert", "configs", "--to", "sglang-linear", "-o", "out", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["schema"] == "tile-workbench/convert/1"
    assert len(found["not_converted"]) == 1
    assert found["sources"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("lint",),
        ("lint", "nowhere"),
        ("lint", ""),
        ("lint", "configs", "--gpu", "nothing"),
        ("lint", "configs", "--model", "nowhere.json"),
        ("lint", "configs", "--run", "nowhere"),
        ("lint", "configs", "--tp", "8"),
        ("lint", "configs", "--family", "vllm"),
        ("convert", "configs", "--to", "sglang", "-o", "out"),
        ("convert", "configs", "--to", "vllm-moe", "-o", "out"),
        ("convert", "configs", "-o", "out"),
        ("convert", "broken", "--to", "sglang-linear", "-o", "out"),
        ("convert", "configs", "--to", "sglang-linear", "-o", "configs"),
        ("convert", "configs", "--to", "sglang-linear", "-o", "file"),
        ("convert", "configs", "--to", "sglang-moe", "-o", "out", "--triton", "new"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], call: Call, tmp_path: Path
) -> None:
    write(tmp_path, {f"configs/{FP8}": BODY, f"broken/{FP8}": "{", "file": "text"})
    answer = call(*arguments)
    is_mistake(answer)
    assert answer.out == ""
    assert not (tmp_path / "out").exists()


def test_the_verbs_are_functions(tmp_path: Path) -> None:
    write(tmp_path / "configs", {FP8: BODY})
    assert workbench.lint(tmp_path / "configs").findings == ()
    done = workbench.convert(tmp_path / "configs", "sglang-linear", tmp_path / "out")
    assert [path.name for path in done.files] == [FP8_SPACED]
