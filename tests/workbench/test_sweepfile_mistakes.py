"""Mistakes in sweep files: one line each, and no text that is more than plain YAML."""

from pathlib import Path

import pytest
from sweep_texts import MINIMAL, refused, written

from workbench.sweepfile import load_sweepfile
from workbench.yamltext import load_yaml

SHAPE = "{shape: [512, 1024, 2048]}"
MISTAKES = {
    "unknown key": (
        ("output:", "outptu:"),
        "unknown key 'outptu': did you mean 'output'? known keys: schema, gpu, problems,",
    ),
    "unknown nested key": (
        ("output:", "search: {sed: 1}\noutput:"),
        "search: unknown key 'sed': did you mean 'seed'?",
    ),
    "missing key": (("gpu: h200\n", ""), "gpu: this key is missing: add it"),
    "schema": (("schema: 1", "schema: 2"), "schema: must be 1, got 2: correct it"),
    "schema is true": (("schema: 1", "schema: true"), "schema: input should be a valid integer"),
    "schema is a float": (("schema: 1", "schema: 1.0"), "schema: input should be a valid integer"),
    "gpu": (("h200", "h2000"), "gpu: unknown GPU 'h2000': did you mean 'h200'? choose one of"),
    "gpu type": (("h200", "200"), "gpu: input should be a valid string, got 200: write text"),
    "recipe": (("e4m3-row", "e4m3-rwo"), "recipes[1]: unknown recipe 'e4m3-rwo': did you mean"),
    "kernel": (
        ("output", "kernels: [triton_gem]\noutput"),
        "kernels[0]: unknown kernel 'triton_gem': did you mean 'triton_gemm'?",
    ),
    "kernels": (("output", "kernels: all\noutput"), "kernels: takes any or a list of kernel fam"),
    "output format": (
        ("output", "out: int8\noutput"),
        "out: output format 'int8': choose one of bf16, fp16, fp32",
    ),
    "output format type": (("output", "out: 16\noutput"), "out: input should be a valid string"),
    "strategy": (
        ("output", "search: {strategy: hybird}\noutput"),
        "search.strategy: input should be 'hybrid', 'model', 'tpe', 'random', 'stratified' or "
        "'exhaustive', got",
    ),
    "time limit": (
        ("output", "search: {time_limit: 30}\noutput"),
        "search.time_limit: a time limit is written 90s, 30m or 2h, got 30: correct it",
    ),
    "boolean": (("output", "quantize: 1\noutput"), "quantize: input should be a valid boolean"),
    "yes": (("output", "quantize: yes\noutput"), "quantize: input should be a valid boolean"),
    "zero": (("512", "0"), "problems[0].shape[0]: input should be greater than or equal to 1, got"),
    "negative": (("512", "-512"), "problems[0].shape[0]: input should be greater than or equal"),
    "absurd": (("512", "9" * 30), "problems[0].shape[0]: input should be less than or equal to"),
    "text": (("512", "'512'"), "problems[0].shape[0]: input should be a valid integer, got '512'"),
    "fraction": (("512", "1e3"), "problems[0].shape[0]: input should be a valid integer, got 1000"),
    "two extents": (("512, ", ""), "problems[0].shape: list should have at least 3 items"),
    "huge tensor": (("[512, 1024,", "[16777216, 16777216,"), "problems[0]: "),
    "no problems": ((f"\n  - {SHAPE}", " []"), "problems: list should have at least 1 item"),
    "no entry": ((SHAPE, "5"), "problems[0]: takes {key: value} pairs, got 5"),
    "an entry of nothing": (
        (SHAPE, "{}"),
        "problems[0]: does not say what it is of, got {}: write shape: [M, N, K], or model:",
    ),
    "an entry of something else": (
        (SHAPE, "{tile: 5}"),
        "problems[0]: does not say what it is of, got {'tile': 5}: write shape: [M, N, K], or",
    ),
    "a tilde": (("runs/minimal", "~/x"), "output: '~/x': ~ stands for no home here: write the"),
    "both kinds": ((SHAPE, "{shape: [1, 1, 1], tp: 1}"), "problems[0]: unknown key 'tp'"),
    "misspelt kind": ((SHAPE, "{modle: x, tokens: [1]}"), "problems[0]: unknown key 'modle': did"),
    "misspelt shape": ((SHAPE, "{shapes: [1, 1, 1]}"), "problems[0]: unknown key 'shapes': did"),
    "no such problem": (
        (SHAPE, "{problem: 'gem:1x2x3:bf16:bf16'}"),
        "problems[0].problem: problem 'gem:1x2x3:bf16:bf16': write gemm:MxNxK:recipe:out or ",
    ),
    "problem type": ((SHAPE, "{problem: 5}"), "problems[0].problem: input should be a valid str"),
    "problem and shape": (
        (SHAPE, "{problem: 'gemm:1x1x1:bf16:bf16', shape: [1, 1, 1]}"),
        "problems[0]: unknown key 'problem'",
    ),
    "misspelt problem": ((SHAPE, "{problm: x}"), "problems[0]: unknown key 'problm': did you me"),
    "no recipes": (("recipes: [bf16, e4m3-row]\n", ""), "recipes: this key is missing: add it"),
    "empty recipes": (("[bf16, e4m3-row]", "[]"), "recipes: list should have at least 1 item"),
    "no model file": ((SHAPE, "{model: no.json, tokens: [1]}"), "problems[0]: "),
    "newline": (("h200", '"h\\n200"'), "gpu: string should match pattern"),
    "duplicate key": (("output", "gpu: h100\noutput"), "line 6: key 'gpu' stands twice: remove"),
}


@pytest.mark.parametrize(("change", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_in_one_line(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert change[0] in MINIMAL
    assert refused(tmp_path, MINIMAL.replace(*change, 1)).startswith(says)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
NOT_TAKEN = {
    "open bracket": ("a: [1, 2", "line 1: not valid YAML"),
    "tab": ("a:\n\t- 1", "line 2: not valid YAML"),
    "null byte": (b"a: \x00", "not valid YAML"),
    "binary": (b"\xff\xfe\xfd", "not UTF-8 text"),
    "empty": ("", "the file is empty: start from one in examples/"),
    "list": ("- 1", "takes {key: value} pairs, got [1]"),
    "two documents": ("--- 1\n--- 2", "line 2: not valid YAML"),
    "large": (b"x" * 10_000_000, "takes at most 1048576 bytes"),
    "deep": ("[" * 100_000, "nested deeper than 16 levels"),
    "wide": ("[" + "1," * 30_000 + "]", "more than 20000 values"),
    "alias bomb": (BOMB, "aliases expand to more than 20000 values"),
    "endless alias": ("&a [*a]", "an alias refers to what contains it"),
    "no anchor": ("a: *b", "line 1: not valid YAML"),
    "python object": ("!!python/object/apply:os.system [ls]", "tag 'tag:yaml.org,2002:python/"),
    "bad tag": ("a: !!int x", "tag 'tag:yaml.org,2002:int' is not taken"),
    "list as key": ("? [a, b]\n: 1", "line 1: not valid YAML"),
}


@pytest.mark.parametrize(("text", "says"), NOT_TAKEN.values(), ids=NOT_TAKEN.keys())
def test_refuses_text_that_is_no_plain_yaml(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert refused(tmp_path, text).startswith(says)


def test_refuses_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.yaml: cannot be read .*: check the path"):
        load_sweepfile(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="not a regular file"):
        load_sweepfile(tmp_path)


def test_yaml_is_read_by_the_core_schema_of_1_2(tmp_path: Path) -> None:
    text = "{on: off, b: true, n: null, e: , i: 010, h: 0x10, f: 1e3, t: 1:30, d: 2026-01-02}"
    assert load_yaml(written(tmp_path, text)) == {
        "on": "off",
        "b": True,
        "n": None,
        "e": None,
        "i": 10,
        "h": 16,
        "f": 1000.0,
        "t": "1:30",
        "d": "2026-01-02",
    }


def test_aliases_may_repeat_values(tmp_path: Path) -> None:
    text = MINIMAL.replace("[512, 1024, 2048]", "&s [512, 1024, 2048]").replace(
        "recipes:", "  - {shape: *s}\nrecipes:"
    )
    assert len(load_sweepfile(written(tmp_path, text)).problems()) == 3
