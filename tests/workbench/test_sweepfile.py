"""Sweep files: what they come to."""

from pathlib import Path
from typing import get_args

import pytest
from sweep_texts import MINIMAL, refused, written

from tiles.problems import Gemm, Quantize
from tiles.recipes import RECIPES
from tuning import Strategy
from workbench.sweep_entries import MeasureEntry, SearchEntry
from workbench.sweepfile import SweepFile, load_sweepfile
from workbench.time_limit import parse_time_limit
from workbench.yamltext import load_yaml

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["llama-3-8b", "bert-base", "deepseek-v3", "quickstart"])
def test_every_example_loads_and_plans(name: str, tmp_path: Path) -> None:
    sweep = load_sweepfile(EXAMPLES / f"{name}.yaml")
    plan = sweep.to_plan(on="sim", output=tmp_path)
    planned = {study.problem for study in plan.studies}
    # Every problem of an example is served on its own GPU by a kernel that we ship.
    assert planned == set(sweep.problems())
    assert sweep.unserved() == []
    assert plan.simulate
    assert plan.folder == tmp_path


def test_the_example_says_what_the_design_says() -> None:
    sweep = load_sweepfile(EXAMPLES / "llama-3-8b.yaml")
    products = [p for p in sweep.problems() if isinstance(p, Gemm)]
    # Four layers at three token counts and one shape, of which 4096 x 4096 x 4096 is the layer o.
    assert len(products) == 4 * 3 * 6
    assert sweep.measure.on == "auto"
    assert sweep.search.time_limit == "30m"
    assert sweep.output == "runs/llama-3-8b"


def test_problems_are_distinct_and_those_of_a_shape_adjacent(tmp_path: Path) -> None:
    text = MINIMAL.replace("problems:", "problems:\n  - {shape: [512, 1024, 2048]}")
    problems = load_sweepfile(written(tmp_path, text)).problems()
    row = RECIPES["e4m3-row"]
    assert problems == [
        Gemm(m=512, n=1024, k=2048, recipe=RECIPES["bf16"]),
        Gemm(m=512, n=1024, k=2048, recipe=row),
        Quantize(rows=512, cols=2048, target=row.activation),
    ]


def test_activations_of_equal_format_are_quantised_once(tmp_path: Path) -> None:
    text = MINIMAL.replace("problems:", "problems:\n  - {shape: [512, 64, 2048]}")
    problems = load_sweepfile(written(tmp_path, text)).problems()
    assert [type(p).__name__ for p in problems] == ["Gemm", "Gemm", "Quantize", "Gemm", "Gemm"]


def test_the_output_format_is_that_of_every_product(tmp_path: Path) -> None:
    products = [str(p) for p in load_sweepfile(written(tmp_path, MINIMAL)).problems()[:2]]
    assert products == ["gemm:512x1024x2048:bf16:bf16", "gemm:512x1024x2048:e4m3-row:bf16"]
    text = MINIMAL.replace("output:", "out: fp16\noutput:")
    sweep = load_sweepfile(written(tmp_path, text))
    assert [str(problem) for problem in sweep.problems()] == [
        "gemm:512x1024x2048:bf16:fp16",
        "gemm:512x1024x2048:e4m3-row:fp16",
        "quantize:512x2048:e4m3fn.row:bf16",
    ]
    assert len(sweep.to_plan(on="sim").studies) > 2


def test_the_documented_file_has_every_key_with_its_default(tmp_path: Path) -> None:
    page = (EXAMPLES.parent / "docs" / "search.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    sweep = load_sweepfile(written(tmp_path, text))
    assert set(load_yaml(tmp_path / "sweep.yaml")) == {
        field.alias or name for name, field in SweepFile.model_fields.items()
    }
    for name, field in SweepFile.model_fields.items():
        if not field.is_required() and name not in ("output", "recipes"):
            assert getattr(sweep, name) == field.default, name
    for key, entry in (("search", SearchEntry), ("measure", MeasureEntry)):
        assert set(load_yaml(tmp_path / "sweep.yaml")[key]) == set(entry.model_fields)


def test_a_problem_of_any_kind_is_named_by_its_text(tmp_path: Path) -> None:
    texts = [
        "grouped_gemm:8x4096x4096x7168:deepseek-fp8:padded.128:bf16",
        "dequantize:8192x8192:int8.b32x32:bf16",
        "gemm:64x64x64:w4a16-g128:fp16",
    ]
    entries = "".join(f"  - {{problem: '{text}'}}\n" for text in texts)
    alone = MINIMAL.replace("  - {shape: [512, 1024, 2048]}\n", entries)
    alone = alone.replace("recipes: [bf16, e4m3-row]\n", "")
    sweep = load_sweepfile(written(tmp_path, alone))
    assert [str(problem) for problem in sweep.problems()] == texts
    assert sweep.unserved() == []
    # Recipes are those of shapes and models alone.
    mixed = MINIMAL.replace("problems:\n", f"problems:\n{entries}").replace(", e4m3-row", "")
    problems = load_sweepfile(written(tmp_path, mixed)).problems()
    assert [str(problem) for problem in problems] == [*texts, "gemm:512x1024x2048:bf16:bf16"]


def test_quantise_false_leaves_the_products(tmp_path: Path) -> None:
    problems = load_sweepfile(written(tmp_path, MINIMAL + "quantize: false\n")).problems()
    assert [type(p) for p in problems] == [Gemm, Gemm]


def test_what_no_kernel_serves_is_listed_with_the_reason(tmp_path: Path) -> None:
    sweep = load_sweepfile(written(tmp_path, MINIMAL + "kernels: [triton_gemm]\n"))
    (unserved,) = sweep.unserved()
    assert isinstance(unserved.problem, Quantize)
    assert "triton_gemm serves gemm problems" in str(unserved)
    assert {name for _, name in sweep.studies()} == {"triton_gemm"}


def test_families_of_another_kind_are_not_among_the_reasons(tmp_path: Path) -> None:
    text = MINIMAL.replace("e4m3-row]", "posit8]").replace("h200", "mi300x")
    text = text.replace("schema: 1", "schema: 1\nquantize: false")
    (unserved,) = load_sweepfile(written(tmp_path, text)).unserved()
    assert "triton_gemm multiplies bf16" in str(unserved)
    assert "serves quantize problems" not in str(unserved)


def test_activations_with_outliers_apart_are_not_quantised_by_a_kernel(tmp_path: Path) -> None:
    text = MINIMAL.replace("e4m3-row]", "llm-int8, int8-fallback]")
    sweep = load_sweepfile(written(tmp_path, text))
    assert {problem.kind for problem in sweep.problems()} == {"gemm"}
    assert "triton_outlier_gemm" in {name for _, name in sweep.studies()}


def test_a_sweep_without_any_kernel_is_refused(tmp_path: Path) -> None:
    text = MINIMAL + "kernels: [triton_quantize]\nquantize: false\n"
    sweep = load_sweepfile(written(tmp_path, text))
    with pytest.raises(ValueError, match="no kernel can run any of the problems: gemm:512x"):
        sweep.to_plan(on="sim")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sweeps"
    folder.mkdir()
    (folder / "m.json").write_text((EXAMPLES / "models" / "bert-base.json").read_text())
    text = MINIMAL.replace("{shape: [512, 1024, 2048]}", "{model: m.json, tokens: [128]}")
    written(folder, text)
    monkeypatch.chdir(tmp_path)
    sweep = load_sweepfile(Path("sweeps/sweep.yaml"))
    assert len([p for p in sweep.problems() if isinstance(p, Gemm)]) == 8
    # The output stays relative to the working directory.
    assert sweep.to_plan(on="sim").folder == Path("runs/minimal")


def test_a_gpu_file_is_relative_to_the_file(tmp_path: Path) -> None:
    import sim

    source = Path(sim.__file__).parent / "gpus" / "h200.yaml"
    (tmp_path / "mine.yaml").write_text(source.read_text())
    sweep = load_sweepfile(written(tmp_path, MINIMAL.replace("h200", "./mine.yaml")))
    assert sweep.to_plan(on="sim").gpu.limits == sim.load_gpu("h200").limits
    message = refused(tmp_path, MINIMAL.replace("h200", "none.yaml"))
    assert message.startswith("gpu: ")
    assert "none.yaml" in message


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    sweep = load_sweepfile(written(tmp_path, MINIMAL))
    plan = sweep.to_plan(on="gpu", max_measurements=7, time_limit="90s", output=tmp_path)
    assert (plan.simulate, plan.max_measurements, plan.time_limit_s) == (False, 7, 90.0)
    with pytest.raises(ValueError, match="--on takes auto, gpu or sim, got 'cpu'"):
        sweep.to_plan(on="cpu")
    with pytest.raises(ValueError, match="written 90s, 30m or 2h, got '5 minutes'"):
        sweep.to_plan(on="sim", time_limit="5 minutes")
    with pytest.raises(ValueError, match="max_measurements = 0"):
        sweep.to_plan(on="sim", max_measurements=0)


def test_auto_simulates_where_the_gpu_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MINIMAL.replace("h200", "a100")
    sweep = load_sweepfile(written(tmp_path, text))
    for name, simulate in (("NVIDIA A100-SXM4-80GB", False), ("NVIDIA H200", True), (None, True)):
        monkeypatch.setattr("tuning.visible_gpu.visible_gpu", lambda name=name: name)
        assert sweep.to_plan().simulate is simulate


def test_the_run_folder_may_come_from_the_caller_alone(tmp_path: Path) -> None:
    sweep = load_sweepfile(written(tmp_path, MINIMAL.replace("output: runs/minimal\n", "")))
    assert sweep.to_plan(on="sim", output=tmp_path / "run").folder == tmp_path / "run"
    with pytest.raises(ValueError, match="no run folder: add a line such as `output: runs/mine`"):
        sweep.to_plan(on="sim")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("720h", 2_592_000)]
)
def test_time_limits(text: str, seconds: int) -> None:
    assert parse_time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0m", "-5m", "1.5h", "30M", "1d", "30m ", "٣m"])
def test_refuses_other_time_limits(text: str) -> None:
    with pytest.raises(ValueError, match="written 90s, 30m or 2h"):
        parse_time_limit(text)


def test_strategies_are_those_of_tuning() -> None:
    assert set(get_args(SearchEntry.model_fields["strategy"].annotation)) == {
        s.value for s in Strategy
    }


def test_python_builds_the_same_record(tmp_path: Path) -> None:
    built = SweepFile.model_validate(
        {
            "schema": 1,
            "gpu": "h200",
            "problems": [{"shape": [512, 1024, 2048]}],
            "recipes": ["bf16", "e4m3-row"],
            "output": "runs/minimal",
        }
    )
    assert built == load_sweepfile(written(tmp_path, MINIMAL))
