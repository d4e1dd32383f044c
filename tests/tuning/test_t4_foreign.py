"""T4 files of other tuners: by the published schema, and taken with our predictions."""

import json
from pathlib import Path
from typing import Any

import pytest

import tuning
from tiles.kernels import kernel
from tiles.problems import parse_problem
from tuning.t4_import import import_t4
from tuning.t4_schema import check_t4

QUANTIZE = "quantize:256x4096:int8.row:bf16"
RESULT: dict[str, Any] = {
    "configuration": {"block_size_x": 16},
    "times": {"compilation": 661.5, "runtimes": [12.2, 12.3]},
    "invalidity": "correct",
    "correctness": 1,
    "measurements": [
        {"name": "time", "value": 12.25, "unit": "ms"},
        {"name": "clocks", "value": [1, 2], "unit": ""},
        {"name": "note", "value": "InvalidConfig"},
    ],
    "objectives": ["time"],
    "timestamp": "2023-12-21 10:44:42+00:00",
}


def test_what_kernel_tuner_writes_is_accepted() -> None:
    check_t4({"results": [RESULT], "schema_version": "1.0.0"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"results": {}}, "results: takes a list"),
        ({"schema_version": "one"}, "schema_version: written 1.0.0, got 'one'"),
        ({"schema_version": 1}, "schema_version: takes a text"),
        ({"metadata": []}, "metadata: takes an object"),
        ({"metadata": {"hardware": 3}}, r"metadata\.hardware: takes an object"),
        ({"results": [3]}, r"results\[0\]: takes an object"),
        ({"results": [{**RESULT, "configuration": []}]}, r"\.configuration: takes an object"),
        ({"results": [{**RESULT, "invalidity": "broken"}]}, r"\.invalidity: one of compile"),
        ({"results": [{**RESULT, "invalidity": ["correct"]}]}, r"\.invalidity: one of compile"),
        ({"results": [{**RESULT, "correctness": True}]}, r"\.correctness: takes a number"),
        ({"results": [RESULT, {**RESULT, "times": 3}]}, r"results\[1\]\.times: takes an object"),
        ({"results": [{**RESULT, "times": {"runtimes": 3}}]}, r"times\.runtimes: takes a list"),
        ({"results": [{**RESULT, "measurements": [1]}]}, r"measurements\[0\]: takes an object"),
        (
            {"results": [{**RESULT, "measurements": [{"name": 1}]}]},
            r"measurements\[0\]\.name: takes a text",
        ),
        (
            {"results": [{**RESULT, "measurements": [{"value": None}]}]},
            r"measurements\[0\]\.value: takes a number",
        ),
    ],
)
def test_what_breaks_the_schema_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_t4({"results": [RESULT], "schema_version": "1.0.0", **change})


@pytest.mark.parametrize("key", ["configuration", "times", "invalidity", "correctness"])
def test_required_keys_are_missed(key: str) -> None:
    with pytest.raises(ValueError, match=rf"results\[0\]\.{key}: this key is missing"):
        check_t4({"results": [{k: v for k, v in RESULT.items() if k != key}]})


def foreign(path: Path, *results: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"schema_version": "1.0.0", "results": results, **more}))
    return path


def result(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**RESULT, "configuration": config, **changes}


def legal_configs(count: int) -> list[dict[str, int | bool]]:
    family = kernel("triton_quantize")
    space = family.legal_space(parse_problem(QUANTIZE), tuning_gpu().limits)
    return [space.accepted.config(row).to_dict() for row in range(count)]


def tuning_gpu() -> Any:
    import sim

    return sim.load_gpu("h200")


def take(path: Path, output: Path) -> Any:
    return import_t4([path], output, problem=QUANTIZE, kernel="triton_quantize", gpu="h200")


def test_another_tuners_file_takes_our_predictions(tmp_path: Path) -> None:
    first, second, third, fourth, fifth = legal_configs(5)
    numbers = {name: int(value) for name, value in third.items()}  # no flags there
    path = foreign(
        tmp_path / "kt.json",
        result(first),
        result(second, measurements=[{"name": "time", "value": 9e-6, "unit": "s"}]),
        result(numbers, correctness=0),
        result(fourth, invalidity="compile", times={}, measurements=[]),
        result(fifth, measurements=[], times={"runtimes": [3.0, 1.0, 2.0]}),
        result(first),
        result({**first, "num_warps": 3}),
    )
    done = take(path, tmp_path / "run")
    (study,) = tuning.load_run(tmp_path / "run").studies
    assert [t.config.to_dict() for t in study.trials] == [first, second, third, fourth, fifth]
    assert [t.measurement.status.value for t in study.trials] == [
        "correct",
        "correct",
        "correctness",
        "compile",
        "correct",
    ]
    times = [t.measurement.time_us for t in study.trials]
    assert times == [12250.0, pytest.approx(9.0), None, None, 2000.0]
    assert study.trials[0].measurement.samples_us == (12200.0, 12300.0)
    assert all(t.predicted_low_us < t.predicted_us < t.predicted_high_us for t in study.trials)
    assert (study.simulated, study.environment, study.stopped) == (False, None, "imported")
    assert done.trials == 5
    assert "results[5]: the same configuration" in done.left_out[0]
    assert "results[6]: not legal on h200: " in done.left_out[1]


def test_the_unit_may_stand_in_the_metadata(tmp_path: Path) -> None:
    (config,) = legal_configs(1)
    entry = result(config, measurements=[{"name": "time", "value": 5.0}])
    path = foreign(tmp_path / "a.json", entry, metadata={"timeunit": "microseconds"})
    take(path, tmp_path / "run")
    outcome = tuning.load_run(tmp_path / "run").studies[0].trials[0].measurement
    assert (outcome.time_us, outcome.samples_us) == (5.0, (12.2, 12.3))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"measurements": [], "times": {}}, r"results\[0\]: correct, but no measurement is called"),
        ({"measurements": [{"name": "time", "value": 1.0, "unit": "h"}]}, "a time in 'h': write"),
        ({"times": {"runtimes": [1.0, "x"]}}, "takes positive numbers"),
        ({"configuration": {"block_size_x": 16}}, "unknown field 'block_size_x', known: block_"),
    ],
)
def test_foreign_nonsense_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (config,) = legal_configs(1)
    path = foreign(tmp_path / "a.json", {**result(config), **changes})
    with pytest.raises(ValueError, match=says) as told:
        take(path, tmp_path / "run")
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_does_not_say_what_it_measured_is_asked_for_it(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.json", RESULT)
    with pytest.raises(ValueError, match="does not say what was measured: add --problem, --gpu"):
        import_t4([path], tmp_path / "run", kernel="triton_quantize")
    with pytest.raises(ValueError, match="cannot serve"):
        import_t4([path], tmp_path / "run", problem=QUANTIZE, kernel="triton_gemm", gpu="h200")
