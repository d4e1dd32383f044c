"""A planted fault of every kind is found, and a clean folder of every family is silent."""

from pathlib import Path
from typing import Any

import pytest
from planted_faults import PLANTED, SGLANG, entry
from serving_loaders import linear_kernel, load, row
from tuned_folders import (
    BODY,
    CLEAN,
    DOWN,
    ENTRY,
    FP8,
    FP8_SPACED,
    INT8,
    INT8_SPACED,
    MOE,
    OURS,
    clean,
    texts,
    write,
)

from workbench.deploy.families import FAMILIES
from workbench.deploy.lint import lint
from workbench.deploy.rules import RULES, Effect

#: Found by other tests: these need a user without rights, or a sweep.
ELSEWHERE = {"path.closed", "lookup.loss"}


def test_every_rule_has_a_planted_fault() -> None:
    assert set(PLANTED) | ELSEWHERE == set(RULES)
    assert len(RULES) >= 40
    assert all(name == rule.name for name, rule in RULES.items())


@pytest.mark.parametrize("family", CLEAN)
def test_a_clean_folder_is_silent(family: str, tmp_path: Path) -> None:
    before = texts(clean(tmp_path / family, family))
    report = lint(tmp_path / family, fix=True)
    assert report.findings == ()
    assert report.fixed == ()
    assert report.files == len(before)
    assert report.families == (family,)
    assert report.summary == f"{len(before)} files ({family}): no findings"
    assert texts(tmp_path / family) == before


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(rule: str, tmp_path: Path) -> None:
    family, plant = PLANTED[rule]
    folder = clean(tmp_path / "configs", family)
    question = plant(folder) or {}
    report = lint(folder, family=family, **question)
    assert {finding.rule for finding in report.findings} == {rule}
    for finding in report.findings:
        # Rule, value and next step on one line; what --fix would mend is in the catalogue.
        assert ": " in finding.message
        assert "\n" not in str(finding)
        assert RULES[rule].fixed or not finding.fixable


#: Faults of a body that loading the file, or launching with it, shows; not a GPU alone.
_OF_BODIES = ("json.", "body.", "entry.", "version.")
_SHOWN = [
    rule
    for rule, (family, _) in PLANTED.items()
    if family == "vllm-linear" and rule.startswith(_OF_BODIES) and rule != "entry.range"
]


@pytest.mark.parametrize("rule", _SHOWN)
def test_what_a_fault_is_said_to_lead_to_is_what_a_loader_does(rule: str, tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    PLANTED[rule][1](folder)

    def served() -> None:
        found = load(folder / FP8)
        assert found is not None
        for m in (1, 16, 64, 1024, 4096):
            linear_kernel(**row(found, m))

    if RULES[rule].effect is not Effect.CRASH:
        served()
        return
    with pytest.raises((ValueError, TypeError, AttributeError, AssertionError)):
        served()


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_told_by_their_folders(family: str, tmp_path: Path) -> None:
    """Where the engine's own tree is given, its path says it, whatever is in it."""
    tree = FAMILIES[family].folder
    for above in ("", "site-packages/"):
        folder = tmp_path / above / tree.removeprefix("python/" if above else "")
        clean(folder, family)
        assert lint(folder).families == (family,)


def test_families_are_not_told_by_what_lies_above_the_folder(tmp_path: Path) -> None:
    """Somebody's checkout of one engine, and in it what was tuned for the other."""
    for above, name, family in (
        ("sglang", FP8, "vllm-linear"),
        ("vllm", FP8_SPACED, "sglang-linear"),
    ):
        folder = tmp_path / above / "tuned"
        write(folder, {name: BODY})
        report = lint(folder)
        assert report.families == (family,)
        assert report.findings == ()
    # The folder that is given has a name of its own, and so have those in it.
    assert lint(tmp_path / "sglang").families == ("sglang-linear",)
    assert lint(tmp_path).families == ("sglang-linear", "vllm-linear")


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ((INT8, INT8_SPACED), "vllm-linear"),
        ((INT8_SPACED,), "sglang-linear"),
        ((INT8, INT8_SPACED, FP8_SPACED), "vllm-linear"),  # twins are vLLM's
        ((FP8,), "vllm-linear"),
        ((FP8_SPACED, INT8), "vllm-linear"),  # as many with the blank as without
        ((FP8_SPACED, INT8_SPACED, INT8.replace("N=4096", "N=1")), "sglang-linear"),
        ((MOE,), "vllm-moe"),
        ((DOWN,), "sglang-moe"),
        ((SGLANG,), "sglang-moe"),
    ],
)
def test_families_are_told_by_spelling(names: tuple[str, ...], family: str, tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(names, BODY))
    assert lint(tmp_path).families == (family,)


#: Tiles that engines ship for a GPU, tuned on it: M, N, K, warps, stages.
SHIPPED = [
    ("vllm-linear", "N=1,K=1,device_name=NVIDIA_L40S,{fp8},{block}", (128, 128, 128, 8, 4)),
    ("vllm-linear", "N=1,K=1,device_name=NVIDIA_L40S,{fp8},{block}", (64, 256, 128, 8, 3)),
    ("vllm-linear", "N=1,K=1,device_name=NVIDIA_H200,{fp8},{block}", (64, 64, 128, 4, 5)),
    (
        "vllm-linear",
        "N=1,K=1,device_name=Intel(R)_Arc(TM)_B70,{fp8},{block}",
        (128, 128, 64, 32, 3),
    ),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_B200", (256, 256, 64, 8, 3)),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_H200,{fp8},{block}", (16, 64, 128, 4, 5)),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_H200,dtype=int8_w8a16", (128, 128, 64, 4, 4)),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_A100-SXM4-80GB", (128, 128, 64, 4, 3)),
    ("vllm-moe", "E=1,N=1,device_name=AMD_Instinct_MI325X,{fp8}", (64, 256, 128, 8, 2)),
    (
        "sglang-moe",
        "E=1,N=1,device_name=AMD_Instinct_MI350X,dtype=int4_w4a16",
        (128, 256, 32, 8, 1),
    ),
]


@pytest.mark.parametrize(("family", "name", "tile"), SHIPPED)
def test_tiles_that_engines_ship_are_not_complained_about(
    family: str, name: str, tile: tuple[int, ...], tmp_path: Path
) -> None:
    keys = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "num_warps", "num_stages")
    values = {"GROUP_SIZE_M": 1, **dict(zip(keys, tile, strict=True))}
    full = name.format(fp8="dtype=fp8_w8a8", block="block_shape=[128,128]") + ".json"
    folder = f"{OURS}/" if family == "sglang-moe" else ""
    write(tmp_path, {folder + full: {"64": values}})
    assert lint(tmp_path, family=family).findings == ()


@pytest.mark.parametrize(
    ("family", "k", "rule"),
    [
        ("vllm-linear", 64, None),
        ("vllm-linear", 256, "tile.scale-k"),
        ("sglang-linear", 256, "tile.scale-k"),
        # The launch of vLLM's experts takes 128; its tuner keeps multiples.
        ("vllm-moe", 256, None),
        ("vllm-moe", 64, "tile.whole-blocks"),
        # SGLang's takes 256 as it stands, with the scale of the first block.
        ("sglang-moe", 256, "tile.scale-k"),
        ("sglang-moe", 64, None),
    ],
)
def test_rules_of_k_steps_differ_by_kernel(
    family: str, k: int, rule: str | None, tmp_path: Path
) -> None:
    name = {"vllm-linear": FP8, "sglang-linear": FP8_SPACED, "vllm-moe": MOE, "sglang-moe": SGLANG}
    write(tmp_path, {name[family]: {"64": ENTRY | {"BLOCK_SIZE_K": k}}})
    found = lint(tmp_path, family=family).findings
    assert [one.rule for one in found] == [rule] * (rule is not None)


def test_a_clamped_k_step_takes_the_shared_memory_of_its_block(tmp_path: Path) -> None:
    deep = ENTRY | {"BLOCK_SIZE_M": 128, "BLOCK_SIZE_K": 256, "num_warps": 8, "num_stages": 4}
    plain = "E=64,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
    write(tmp_path, {MOE: {"64": deep}, plain: {"64": deep}})
    found = lint(tmp_path, family="vllm-moe").findings
    assert [(str(one.path), one.rule) for one in found] == [(plain, "gpu.smem")]


def test_knobs_of_amd_are_known_by_devices_without_a_vendor(tmp_path: Path) -> None:
    name = FP8.replace("NVIDIA_H200", "MI308X")
    write(tmp_path, {name: {"1": ENTRY | {"waves_per_eu": 0}}})
    assert lint(tmp_path).findings == ()


def test_other_json_is_nobodys_business(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "sglang-moe")
    table = {"8-2048-bfloat16": {"1": {"BLOCK_M": 1, "num_warps": 2}}}
    others = {f"{OURS}/moe_sum_reduce_NVIDIA-H200_t8_h2048_bfloat16.json": table}
    write(folder, {**others, "config.json": {"model_type": "llama"}})
    report = lint(folder)
    assert report.findings == ()
    assert report.files == len(CLEAN["sglang-moe"])


def test_linear_and_experts_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    clean(tmp_path, "vllm-linear")
    clean(tmp_path, "vllm-moe")
    report = lint(tmp_path)
    assert report.families == ("vllm-linear", "vllm-moe")
    assert report.findings == ()


def test_a_tie_is_lost_by_order_alone(tmp_path: Path) -> None:
    """Equal rows in another order are another answer: 40 lies between 16 and 64."""
    write(tmp_path, {FP8: {"64": ENTRY, "16": ENTRY | {"BLOCK_SIZE_M": 16}}})
    (finding,) = lint(tmp_path).findings
    assert finding.rule == "body.order"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"family": "vllm"}, "unknown family 'vllm': did you mean 'vllm-moe'"),
        ({"family": "sglang-moe"}, "'sglang-moe': is of moe files, .* holds linear ones: choose"),
        ({"gpu": "h2000"}, "unknown GPU|no GPU|h2000"),
        ({"triton": "3.6"}, r"--triton '3.6': write three numbers, X.Y.Z"),
        ({"tp": 8}, "speak of a model: add --model"),
        ({"block_shape": "128"}, "add --model"),
        ({"model": "nowhere.json"}, "nowhere.json: cannot be read"),
        ({"run": "nowhere"}, "nowhere"),
    ],
)
def test_a_bad_question_is_one_line(question: dict[str, Any], message: str, tmp_path: Path) -> None:
    clean(tmp_path, "vllm-linear")
    with pytest.raises(ValueError, match=message) as caught:
        lint(tmp_path, **question)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder: give a folder of tuned files"):
        lint(tmp_path / "nowhere")
    file = tmp_path / "file.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="not a folder"):
        lint(file)


@pytest.mark.parametrize("files", [{}, {"config.json": {"model_type": "llama"}}])
def test_a_folder_without_tuned_files_answers_for_a_model_alone(
    files: dict[str, Any], tmp_path: Path
) -> None:
    """A wrong folder is not one without faults."""
    folder = write(tmp_path / "configs", files)
    folder.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="configs: holds no tuned files: give the folder that"):
        lint(folder)
    model = tmp_path / "model.json"
    model.write_text(
        '{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, '
        '"num_attention_heads": 32, "num_key_value_heads": 4, "num_hidden_layers": 2, '
        '"vocab_size": 32000}'
    )
    coding = {"dtype": "fp8_w8a8", "block_shape": "128x128"}
    found = lint(folder, family="vllm-linear", model=model, gpu="h200", **coding)
    assert {finding.rule for finding in found.findings} == {"model.missing"}


def test_a_tree_that_is_far_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join("abcdefghij")).mkdir(parents=True)
    with pytest.raises(ValueError, match="deeper than 8: give the folder of tuned files"):
        lint(tmp_path)


def test_json_says_the_same(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    entry(folder, FP8, num_stages="3")
    found = lint(folder).to_dict()
    assert found["schema"] == "tile-workbench/lint/1"
    assert found["findings"] == [
        {
            "rule": "entry.type",
            "effect": "crash",
            "path": FP8,
            "message": "M 64: num_stages '3': takes an integer, write 3",
            "fixable": True,
        }
    ]
