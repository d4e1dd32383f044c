"""What pages tell of the trained GPT and the block is what their records hold."""

import json
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).parents[2]
EVIDENCE = (ROOT / "evidence" / "h200" / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def record(name: str) -> dict[str, Any]:
    path = ROOT / "evidence" / "h200" / name
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def losses() -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for run in record("train-gpt.json")["runs"]:
        found.setdefault(run["recipe"], {})
        if run["status"] == "finished":
            found[run["recipe"]][run["seed"]] = run["loss"]
    return found


def difference(recipe: str, baseline: str) -> str:
    """Mean and standard error of the paired differences in percent, from the runs alone."""
    own, base = losses()[recipe], losses()[baseline]
    pairs = [100 * (own[seed] / base[seed] - 1) for seed in sorted(own.keys() & base.keys())]
    return f"{fmean(pairs):+.2f} ± {stdev(pairs) / len(pairs) ** 0.5:.2f}"


def table_rows(title: str) -> list[list[str]]:
    section = EVIDENCE.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_table_of_losses_is_that_of_the_runs_and_ranked() -> None:
    found = losses()
    rows = table_rows("A GPT trained under ten recipes")
    assert {row[0].strip("`") for row in rows} == set(found)
    means = []
    for name, seeds, loss, to_bf16, _, to_fp32 in rows:
        recipe = name.strip("`")
        assert seeds == str(len(found[recipe]))
        assert loss == f"{fmean(found[recipe].values()):.4f}"
        assert to_bf16 == ("" if recipe == "bf16" else difference(recipe, "bf16"))
        assert to_fp32 == ("" if recipe == "fp32" else difference(recipe, "fp32"))
        means.append(0.0 if recipe == "bf16" else float(to_bf16.split()[0]))
    assert means == sorted(means)


def test_the_guide_tells_the_record_s_differences() -> None:
    told = re.findall(r"`([a-z][\w-]+)`\s+([-+]\d\.\d\d ± \d\.\d\d) %", GUIDE)
    told += re.findall(r"`(mxfp8-e4m3)` does not .*?: ([-+]\d\.\d\d ± \d\.\d\d) %", GUIDE)
    assert len(told) == 6
    for recipe, figures in told:
        assert figures == difference(recipe, "bf16")
    (six,) = re.findall(r"`mxfp6-e3m2` reach 1 % of fp32: ([-+]\d\.\d\d ± \d\.\d\d) %", GUIDE)
    assert six == difference("mxfp6-e3m2", "fp32")


def test_the_bad_recipe_is_caught_and_bf16_beats_the_bigram_model() -> None:
    content, found = record("train-gpt.json"), losses()
    bigram = content["bigram_loss"]
    assert f"A bigram model of the same text: {bigram:.4f}." in EVIDENCE
    assert max(found["bf16"].values()) < bigram / 2
    assert min(found["int4-tensor"].values()) > bigram
    assert content["settings"]["steps"] >= 2000
    assert len(found["bf16"]) >= 3


def test_the_table_of_the_block_is_that_of_its_record() -> None:
    (row,) = record("block.json")["rows"]
    step = row["measured"]["forward_backward"]
    eager = step["eager"]["measured_us"]
    variants = [
        "eager",
        "eager-graph",
        "jetfire-128",
        "jetfire-128-graph",
        "jetfire-128-fused",
        "jetfire-128-kept",
        "jetfire-64",
        "jetfire",
    ]
    rows = table_rows("A transformer block")
    assert set(variants) == set(step)
    for variant, (_, measured, ratio, predicted, memory) in zip(variants, rows, strict=True):
        one = step[variant]
        assert measured == f"{one['measured_us'] / 1e3:.2f}"
        assert ratio == f"{eager / one['measured_us']:.2f}"
        assert (predicted == "") == (not variant.startswith("eager"))
        above = one.get("peak_above_gradients_bytes")
        assert memory == ("" if above is None else f"{above / 2**20:.0f}")


def test_the_table_of_the_later_block_is_that_of_its_record() -> None:
    """Torch's better time of a case over ours of it; two cases, one run."""
    steps = {one["case"]: one["measured"] for one in record("block-later.json")["rows"]}
    told = table_rows("Transformer blocks of two widths")
    assert len(told) == sum(len(one["forward"]) for one in steps.values())
    for case, variant, forward, both, ratio, memory in told:
        one, name = steps[case], variant.strip("`")
        step = one["forward_backward"]
        eager = min(step["eager"]["measured_us"], step["eager-graph"]["measured_us"])
        assert forward == f"{one['forward'][name]['measured_us'] / 1e3:.2f}"
        assert both == f"{step[name]['measured_us'] / 1e3:.2f}"
        assert ratio == f"{eager / step[name]['measured_us']:.2f}"
        above = step[name].get("peak_above_gradients_bytes")
        assert memory == ("" if above is None else f"{above / 2**20:.0f}")


def test_the_profile_s_parts_are_those_of_its_record() -> None:
    kernels = record("block-profile.json")["kernels"]
    total = sum(one["time_us"] for one in kernels) / 1e3
    products = sum(one["time_us"] for one in kernels if "gemm_hopper" in one["kernel"]) / 1e3
    assert f"of {total:.2f} ms of kernels in a step of `jetfire-128`, {products:.2f}" in EVIDENCE
