"""What pages tell of the trained GPT and the block is what their records hold."""

import json
import re
from pathlib import Path
from statistics import fmean, quantiles, stdev
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


def block_steps() -> dict[str, dict[str, Any]]:
    """What was measured of each case; two cases, one run."""
    return {one["case"]: one["measured"] for one in record("block.json")["rows"]}


def against_bf16(step: dict[str, Any], variant: str) -> str:
    """Torch's better time of a case over ours of it."""
    eager = min(step["eager"]["measured_us"], step["eager-graph"]["measured_us"])
    return f"{eager / step[variant]['measured_us']:.2f}"


def test_the_table_of_the_blocks_is_that_of_their_record() -> None:
    steps = block_steps()
    told = table_rows("Transformer blocks of two widths")
    assert {(row[0], row[1].strip("`")) for row in told} == {
        (case, variant) for case, one in steps.items() for variant in one["forward"]
    }
    for case, variant, forward, both, ratio, memory in told:
        one, name = steps[case], variant.strip("`")
        step = one["forward_backward"]
        assert forward == f"{one['forward'][name]['measured_us'] / 1e3:.2f}"
        assert both == f"{step[name]['measured_us'] / 1e3:.2f}"
        assert ratio == against_bf16(step, name)
        above = step[name].get("peak_above_gradients_bytes")
        assert memory == ("" if above is None else f"{above / 2**20:.0f}")


def test_what_is_told_of_single_samples_and_quartiles_is_in_the_record() -> None:
    steps = {case: one["forward_backward"] for case, one in block_steps().items()}
    wide, narrow = steps["gpt-4096-block 8x1024"], steps["gpt-2048-block 16x1024"]
    launched = [narrow["jetfire-128"], narrow["jetfire-128-kept"]]
    medians = [one["measured_us"] / 1e3 for one in launched]
    samples = [sample / 1e3 for one in launched for sample in one["samples_us"]]
    all_of_them = f"(single samples {min(samples):.1f} to {max(samples):.1f})"
    assert f"{min(medians):.1f} to {max(medians):.1f} ms {all_of_them}" in EVIDENCE
    assert f"{min(medians):.1f} to {max(medians):.1f} ms in that run" in GUIDE
    kept = [quantiles(wide[f"jetfire-128-kept{end}"]["samples_us"], n=4) for end in ("", "-graph")]
    low, high = min(one[0] for one in kept) / 1e3, max(one[2] for one in kept) / 1e3
    assert f"quartiles of the steps {low:.1f} to {high:.1f} ms" in EVIDENCE
    low, _, high = quantiles(wide["eager"]["samples_us"], n=4)
    assert f"of eager bf16 {low / 1e3:.1f} to {high / 1e3:.1f}." in EVIDENCE


def test_the_guide_s_table_of_blocks_is_that_of_their_record() -> None:
    steps = block_steps()
    section = GUIDE.split("**Time.**")[1].split("\n\n", 2)[1]
    head, _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()
    )
    names = [cell.split("`")[1] + ("-kept" if "kept" in cell else "") for cell in head[1:]]
    assert names == ["jetfire-128", "jetfire-128-kept", "jetfire-64", "jetfire"]
    assert len(lines) == 2 * len(steps)
    for title, *ratios in lines:
        (case,) = (one for one in steps if one.split()[0].split("-")[1] in title)
        end = "-graph" if "replayed" in title else ""
        step = steps[case]["forward_backward"]
        assert ratios == [against_bf16(step, f"{name}{end}") for name in names]


def test_the_profile_s_parts_are_those_of_its_record() -> None:
    kernels = record("block-profile.json")["kernels"]
    total = sum(one["time_us"] for one in kernels) / 1e3
    products = sum(one["time_us"] for one in kernels if "gemm_hopper" in one["kernel"]) / 1e3
    assert f"of {total:.2f} ms of kernels in a step of `jetfire-128`, {products:.2f}" in EVIDENCE
