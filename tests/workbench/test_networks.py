"""``workbench predict --network``: tables, JSON, options that do not go together, the docs' page.

``python tests/workbench/test_networks.py`` writes the page's example anew.
"""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import Call, is_mistake

import sim
import workbench
from workbench.network_tables import network_tables

if TYPE_CHECKING:
    from bench.block_parts import Compared

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "networks.md"
PARTS = re.compile(r"<!-- parts -->\n(.*?)<!-- end of parts -->", re.DOTALL)
BERT = str(ROOT / "examples" / "models" / "bert-base.json")
ASKED = ["predict", "--model", BERT, "--batch", "4", "--sequence", "128"]


def test_times_and_memory_are_printed_as_predicted(call: Call) -> None:
    names = ["--recipe", "bf16", "--recipe", "jetfire", "--recipe", "int8-row"]
    answer = call(*ASKED, "--training", *names)
    assert answer.code == 0
    printed = answer.out
    first, second = (text for text in printed.split("h200  bert-base, 12 layers, ") if text)
    for table in (first, second):
        assert "4 x 128 tokens, training" in table
        assert "predicted" in table.splitlines()[1]
    assert [
        word for word in ("products", "attention", "norm", "quantize") if word not in first
    ] == []
    assert [
        word for word in ("weights", "gradients", "optimizer", "working") if word not in second
    ] == []
    assert "not predicted: int8-row: int8-row is for inference: choose a recipe" in second


def test_inference_prints_one_pass(call: Call) -> None:
    answer = call(*ASKED, "--network", "--recipe", "int8-row")
    assert answer.code == 0
    printed = answer.out
    assert "inference" in printed
    assert "backward" not in printed
    assert "gradients" not in printed


def test_json_is_what_the_python_api_says(call: Call) -> None:
    answer = call(*ASKED, "--training", "--recipe", "deepseek-fp8", "--json")
    assert answer.code == 0
    printed = json.loads(answer.out)
    report = workbench.predict_network(
        model=BERT, batch=4, sequence=128, training=True, recipes=["deepseek-fp8"]
    )
    assert printed == json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert printed["schema"] == "tile-workbench/network/1"
    assert (printed["batch"], printed["sequence"], printed["layers"]) == (4, 128, 12)
    assert "dependent" in printed["intervals"]
    (row,) = printed["predicted"]
    low, high = row["passes"]["predicted_interval_us"]
    assert low < row["passes"]["predicted_time_us"] < high
    assert row["predicted_memory_bytes"]["total"] == sum(
        size for name, size in row["predicted_memory_bytes"].items() if name != "total"
    )
    operators = row["operators_of_a_layer"]
    layer_us = sum(one["predicted_time_us"] for one in operators)
    assert sum(row["predicted_parts_us"].values()) == pytest.approx(12 * layer_us)


def test_the_baseline_is_bf16_whatever_is_asked_for() -> None:
    (alone,) = workbench.predict_network(model=BERT, sequence=128, recipes="e4m3-row").rows
    both = workbench.predict_network(model=BERT, sequence=128, recipes=["bf16", "e4m3-row"]).rows
    assert alone.speedup == both[1].speedup
    assert both[0].speedup == 1.0
    assert both[0].memory_ratio == 1.0
    whole, low = (row.passes.time_us for row in both)
    assert both[1].speedup == pytest.approx(whole / low)


def test_without_a_baseline_times_stay_and_ratios_are_empty() -> None:
    """A GPU of the kind before bf16."""
    rates = {"fp16": 2048.0, "int8": 4096.0}
    old = replace(
        sim.load_gpu("a100"),
        name="old",
        native_elements=frozenset(rates),
        tensor_flop_per_clk=rates,
    )
    names = ["bf16", "fp16", "int8-row"]
    report = workbench.predict_network(gpu=old, model=BERT, sequence=64, recipes=names)
    assert [row.cost.recipe.name for row in report.rows] == ["fp16", "int8-row"]
    assert [(row.speedup, row.memory_ratio) for row in report.rows] == [(None, None)] * 2
    assert [one.recipe for one in report.refused] == ["bf16"]
    assert "bf16 has no path on old" in report.refused[0].reason
    json.dumps(report.to_dict(), allow_nan=False)
    times, _ = network_tables(report)
    (column,) = [one for one in times.columns if one.header == "x bf16"]
    assert list(column.cells) == ["-", "-"]


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no model": (["--network", "--sequence", "8"], "--network takes a model: add --model"),
    "no length": (["--model", BERT, "--network"], "no length of a sequence given: add --sequence"),
    "no network": (["--model", BERT, "--sequence", "8"], "belong to a network: add --network"),
    "tokens": (
        ["--model", BERT, "--network", "--sequence", "8", "--tokens", "8"],
        "--tokens belongs to single products: drop it, or --network and --training",
    ),
    "shape": (["--training", "--shape", "8x8x8"], "--shape belongs to single products"),
    "kernel": (["--network", "--kernel", "triton_gemm"], "--kernel belongs to single products"),
    "tp": (["--model", BERT, "--network", "--tp", "2"], "--tp belongs to single products"),
    "out": (["--model", BERT, "--training", "--out", "fp32"], "--out belongs to single products"),
    "zero": ([*ASKED[1:-1], "0", "--network"], "sequence = 0: a dimension must lie in 1.."),
    "many": ([*ASKED[1:-1], "9999999", "--network"], "are 39999996 tokens: at most 16777216"),
    "nothing": (
        [*ASKED[1:], "--training", "--recipe", "int8-row"],
        "nothing was predicted: int8-row: int8-row is for inference",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(call: Call, name: str) -> None:
    arguments, message = MISTAKES[name]
    answer = call("predict", *arguments)
    is_mistake(answer, message)


@pytest.mark.parametrize(
    "change", [{"sequence": "128"}, {"batch": 1.5}, {"batch": True}, {"recipes": 3}], ids=str
)
def test_arguments_of_another_type_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="give"):
        workbench.predict_network(**{"model": BERT, "sequence": 128} | change)


EXAMPLE = re.compile(r"```\n\$ workbench (predict .*)\n([^`]*)```")


def without_padding(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.strip().splitlines())


def test_the_example_of_the_page_is_what_the_command_prints(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = EXAMPLE.finditer(PAGE.read_text())
    monkeypatch.chdir(ROOT)
    answer = call(*example[1].split())
    assert answer.code == 0
    assert example[2] == without_padding(answer.out)


def test_the_parts_of_the_page_are_what_the_command_prints() -> None:
    (found,) = PARTS.finditer(PAGE.read_text())
    assert found[1] == parts()


def _measured_tflops() -> float:
    """Of the product in bf16, by the kernel that was swept."""
    stored = json.loads((ROOT / "evidence/h200/kernels.json").read_text(encoding="utf-8"))
    text = "gemm:8192x8192x8192:bf16:bf16"
    (line,) = [one for one in stored["lines"] if one["problem"] == text]
    return float(2 * 8192**3 / line["ours"]["time_us"] / 1e6)


def test_what_the_page_says_of_its_example_follows_from_it() -> None:
    report = workbench.predict_network(
        model=ROOT / "examples" / "models" / "gpt-4096-block.json",
        batch=8,
        sequence=1024,
        training=True,
        recipes="bf16",
    )
    (row,) = report.rows
    page = " ".join(PAGE.read_text().split())
    time_ms = row.passes.time_us / 1e3
    low, high = (100 * (1 - time_ms / measured) for measured in (16.0, 16.9))
    assert f"Time: {time_ms:.1f} ms, {low:.0f} to {high:.0f} % too fast" in page
    assert row.passes.low_us / 1e3 < 16.0 < 16.9 < row.passes.high_us / 1e3
    (product,) = workbench.predict(shapes=["8192x8192x8192"], recipes="bf16").rows
    assert f"products of this size {product.gemm.tflops:.0f} TFLOP/s, where" in page
    assert f"{_measured_tflops():.0f} in the table" in page
    step = row.cost.memory.step / 2**20
    assert f"Memory: {step:.0f} MiB" in page
    assert f"{step - 64:.0f} MiB are left" in page


def test_what_the_page_says_of_whole_passes_is_in_its_table() -> None:
    page = " ".join(PAGE.read_text().split())
    errors = {one.part: 100 * one.error for one in rows() if one.source == "block.json"}
    steps = [error for part, error in errors.items() if part.endswith("forward and backward")]
    low, high = -min(steps), max(steps)
    assert len(steps) == 10
    assert f"within that, from {low:.0f} % too fast to {high:.0f} % too slow" in page
    passes = {part: error for part, error in errors.items() if part.endswith(": forward")}
    codes = max(abs(error) for part, error in passes.items() if "jetfire" in part)
    assert f"forward INT8 is within {math.ceil(codes)} %" in page
    *bf16, missed = sorted((-error for part, error in passes.items() if "eager" in part))
    low, high = min(bf16), max(bf16)
    assert f"bf16 {low:.0f} to {high:.0f} % too fast but for" in page
    assert f"misses it: {missed:.1f} % too fast" in page
    assert missed == -passes["gpt-4096-block 8x1024, eager-graph: forward"]
    evidence = json.loads((ROOT / "evidence/h200/block.json").read_text(encoding="utf-8"))
    (narrow,) = (row for row in evidence["rows"] if row["case"] == "gpt-2048-block 16x1024")
    times = {v: one["measured_us"] for v, one in narrow["measured"]["forward_backward"].items()}
    coded = [v for v in times if v.startswith("jetfire") and not v.endswith("-graph")]
    ratios = [times[v] / times[f"{v}-graph"] for v in coded]
    assert f"took {min(ratios):.1f} to {max(ratios):.1f} times as long" in page


def test_products_alone_load_nothing_of_networks() -> None:
    line = (
        "import sys, workbench; workbench.predict(shapes=['512x512x512'], recipes=['bf16']); "
        "print([name for name in sys.modules if 'network' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@cache
def rows() -> "list[Compared]":
    """Of the table that ``python -m bench.block_parts`` prints."""
    from bench.block_parts import compared

    return compared()


def parts() -> str:
    """The table that ``python -m bench.block_parts`` prints."""
    from bench.block_parts import table

    return "".join(f"{line}\n" for line in ["", *table(rows()), ""])


def printed(command: str) -> str:
    """What the command prints in a process of its own."""
    asked = [sys.executable, "-m", "workbench", *command.split()]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    return without_padding(done.stdout)


if __name__ == "__main__":
    text = PAGE.read_text()
    text = EXAMPLE.sub(lambda m: f"```\n$ workbench {m[1]}\n{printed(m[1])}```", text)
    text = PARTS.sub(lambda _: f"<!-- parts -->\n{parts()}<!-- end of parts -->", text)
    PAGE.write_text(text, "utf-8")
