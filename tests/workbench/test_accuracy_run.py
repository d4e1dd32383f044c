"""Pairs under recipes: what is measured, told apart, kept, measured again and refused."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accuracy_tasks import BAD, GOOD, Fitted, Rounded, blobs, round_weights
from torch import nn

from bench.accuracy.__main__ import RECIPES, main
from bench.accuracy.outliers import outliers
from bench.accuracy.quantizer import Quantizer, source_digest, workbench_quantizer
from bench.accuracy.record import AccuracyRecord, Status
from bench.accuracy.run import measure_all
from tiles.recipes import RECIPES as NAMED


@pytest.fixture
def task() -> Fitted:
    return Fitted()


def record_at(path: Path | None) -> AccuracyRecord:
    return AccuracyRecord(path, {"command": "test"}, criterion=0.01)


def counted(log: list[str], digest: str = "counted") -> Quantizer:
    def quantize(model: nn.Module, recipe: str, **how: Any) -> Rounded:
        log.append(recipe)
        return round_weights(model, recipe, bits=None)

    return Quantizer(quantize=quantize, digest=digest)


def test_rounding_to_two_bits_is_caught_and_to_bf16_passes(task: Fitted) -> None:
    rows = {}
    for name, quantizer in (("good", GOOD), ("bad", BAD)):
        record = record_at(None)
        base, row = measure_all([task], ["int8-row"], quantizer, record)
        assert base.recipe == "fp32"
        assert base.score is not None
        assert base.score > 0.9
        assert row.fp32 == base.score
        rows[name] = row
        (overall, of_family) = record.coverages()
        assert (overall.family, of_family.family) == ("", "table")
        assert overall.passed == (1 if name == "good" else 0)
        assert overall.missed == (() if name == "good" else ("mlp.blobs",))
    assert rows["good"].within(0.01)
    assert not rows["bad"].within(0.01)
    assert rows["bad"].change is not None
    assert rows["bad"].change < -0.05


def test_a_quantiser_is_given_the_models_calibration_scheme_and_criterion(task: Fitted) -> None:
    seen: dict[str, Any] = {}

    def quantize(model: nn.Module, recipe: str, **how: Any) -> Rounded:
        seen.update(how, recipe=recipe, training=model.training)
        return Rounded(model)

    quantizer = Quantizer(quantize=quantize, digest="")
    measure_all([task], ["mxfp4"], quantizer, record_at(None), scheme="extended", criterion=0.02)
    assert (seen["recipe"], seen["scheme"], seen["criterion"]) == ("mxfp4", "extended", 0.02)
    assert seen["score"] is None
    assert seen["training"] is False
    trained_on = {tuple(row.tolist()) for row in blobs().inputs[0]}
    given = [tuple(row.tolist()) for (batch,) in seen["calibration"] for row in batch]
    assert len(given) == 64
    assert set(given) <= trained_on  # nothing that is scored
    measure_all([task], ["mxfp4"], quantizer, record_at(None), tuned=True)
    assert seen["score"](task.model()) == task.score(task.model())


def test_refusals_faults_and_nan_scores_are_rows_with_reasons(task: Fitted) -> None:
    def quantize(model: nn.Module, recipe: str, **how: Any) -> Rounded:
        if recipe == "mxfp4":
            raise ValueError("no such operator")
        if recipe == "nvfp4":
            raise RuntimeError("shapes\ndo not fit")
        for parameter in model.parameters():
            parameter.data.fill_(float("nan"))
        return Rounded(model)

    record = record_at(None)
    quantizer = Quantizer(quantize=quantize, digest="")
    rows = measure_all([task], ["mxfp4", "nvfp4", "posit8"], quantizer, record)
    assert [(row.status, row.reason) for row in rows[1:]] == [
        (Status.REFUSED, "ValueError: no such operator"),
        (Status.FAILED, "RuntimeError: shapes do not fit"),
        (Status.FAILED, "the score is nan"),
    ]
    for coverage in record.coverages():
        assert (coverage.pairs, coverage.passed) == (1, 0)
        assert coverage.unscored == ("mlp.blobs",)


def test_a_programming_mistake_of_ours_is_not_recorded_as_a_result(task: Fitted) -> None:
    def quantize(model: nn.Module, recipe: str, **how: Any) -> Rounded:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_all([task], ["mxfp4"], Quantizer(quantize=quantize, digest=""), record_at(None))


def test_a_second_run_measures_only_what_is_missing(task: Fitted, tmp_path: Path) -> None:
    path, log = tmp_path / "record.json", list[str]()
    measure_all([task], ["mxfp4"], counted(log), record_at(path))
    told: list[tuple[str, str]] = []
    record = record_at(path)
    rows = measure_all(
        [task],
        ["mxfp4", "nvfp4"],
        counted(log),
        record,
        tell=lambda row, what: told.append((row.recipe, what)),
    )
    assert log == ["mxfp4", "nvfp4"]
    assert told == [("fp32", "kept"), ("mxfp4", "kept"), ("nvfp4", "measured")]
    assert [row.session for row in rows] == [0, 0, 1]
    stored = json.loads(path.read_text())
    assert stored["schema"] == "tile-workbench/accuracy/1"
    assert [row["recipe"] for row in stored["rows"]] == ["fp32", "mxfp4", "nvfp4"]
    assert len(stored["sessions"]) == 2
    assert stored["begun"] == []
    assert stored["pairs"]["mlp.blobs"]["digest"] == blobs().digest
    assert stored["pairs"]["mlp.blobs"]["outliers"]["largest"] > 1


def test_another_quantiser_or_other_data_make_a_score_stale(task: Fitted, tmp_path: Path) -> None:
    path, log = tmp_path / "record.json", list[str]()
    measure_all([task], ["mxfp4"], counted(log), record_at(path))
    measure_all([task], ["mxfp4"], counted(log, "changed"), record_at(path))
    assert log == ["mxfp4"] * 2
    other = Fitted(data=partial(blobs, 1))
    record = record_at(path)
    rows = measure_all([other], ["mxfp4"], counted(log, "changed"), record)
    assert log == ["mxfp4"] * 3
    assert len(record.rows) == 2
    assert {row.digest for row in rows} == {other.digest()} != {task.digest()}


def test_what_failed_is_tried_again_and_what_was_cut_off_comes_last(
    task: Fitted, tmp_path: Path
) -> None:
    path, log = tmp_path / "record.json", list[str]()

    def cut(model: nn.Module, recipe: str, **how: Any) -> Rounded:
        log.append(recipe)
        if recipe == "mxfp4":
            raise SystemExit("out of memory, say")
        raise RuntimeError("for now")

    with pytest.raises(SystemExit):
        measure_all(
            [task], ["nvfp4", "mxfp4"], Quantizer(quantize=cut, digest="counted"), record_at(path)
        )
    assert log == ["nvfp4", "mxfp4"]
    measure_all([task], ["mxfp4", "nvfp4", "posit8"], counted(log), record_at(path))
    assert log[2:] == ["nvfp4", "posit8", "mxfp4"]


def test_the_models_of_rows_are_fresh_copies(task: Fitted) -> None:
    first, second = task.model(), task.model()
    for parameter in first.parameters():
        parameter.data.zero_()
    assert all(bool(parameter.any()) for parameter in second.parameters())
    assert task.score(task.model()) == task.score(second) > task.score(first)


def test_an_outlier_in_a_layers_input_is_found(task: Fitted) -> None:
    plain = outliers(task)
    assert set(plain) == {"0", "2"}
    assert all(1 < ratio < 10 for ratio in plain.values())

    class Spiked:
        name = "spiked"
        model, score = staticmethod(task.model), staticmethod(task.score)

        @staticmethod
        def calibration() -> list[tuple[torch.Tensor, ...]]:
            batches = task.calibration()
            batches[0][0][0, 0] = 1e3
            return batches

    # One number of 512 is nearly all there is: its square is 512 times the mean.
    assert outliers(Spiked())["0"] == pytest.approx(512**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "quantized", "scales"),
    [
        ("standard", {"1"}, "static"),
        ("standard-whole", {"0", "1", "3"}, "static"),
        ("standard-dynamic", {"1"}, "dynamic"),
        ("extended", {"1", "add"}, "static"),
    ],
)
def test_schemes_go_by_their_names(name: str, quantized: set[str], scales: str) -> None:
    class Small(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return torch.add(y, y)

    model = Small(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
    made = workbench_quantizer()(
        model,
        "fp8-ptq-e4m3",
        calibration=[(torch.ones(2, 2, 8),)],
        scheme=name,
        score=None,
        criterion=0.01,
    )
    assert {one.name.strip(":") for one in made.operators} == quantized
    assert {one.scales["input"] for one in made.operators if "input" in one.scales} == {scales}


def test_quantisers_are_told_apart_by_their_source(tmp_path: Path) -> None:
    assert source_digest(("tiles/formats",)) != source_digest(("tiles/recipes",))
    assert source_digest() == source_digest()


def run(*arguments: str, quantizer: Quantizer = GOOD) -> int:
    return main(
        arguments,
        make_pairs=lambda cache: [Fitted(), Fitted(name="mlp.others")],
        make_quantizer=lambda: quantizer,
    )


def test_the_command_writes_rows_coverage_and_its_own_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accuracy.json"
    asked = ("--recipes", "fp32,mxfp4", "--pairs", "mlp.o*", "--output", str(path))
    assert run(*asked, quantizer=BAD) == 0
    said = capsys.readouterr().out
    assert "| mxfp4 | standard | 0.0 % (0/1) | 0.0 % (0/1) |" in said
    assert re.search(r"mlp\.others  mxfp4: 0\.\d{4}, -\d+\.\d\d % \(lost\)", said)
    stored = json.loads(path.read_text())
    assert list(stored["pairs"]) == ["mlp.others"]
    (session,) = stored["sessions"]
    assert session["command"] == (
        "python -m bench.accuracy --recipes fp32,mxfp4 --pairs 'mlp.o*' --output accuracy.json"
    )
    assert session["versions"]["torch"] == torch.__version__
    assert {one["family"]: one["share"] for one in stored["coverage"]} == {"": 0.0, "table": 0.0}


def test_a_dry_run_tells_the_plan_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(Fitted, "model")
    assert run("--dry-run") == 0
    said = capsys.readouterr().out
    assert "| mlp.blobs | MLP | 420 | accuracy | 200 |" in said
    assert f"2 pairs, {2 * len(RECIPES)} rows" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--recipes", "mxfp5"), "unknown recipe 'mxfp5'"),
        (("--recipes", "fp32", "--pairs", "resnet"), "--pairs resnet: no such pair.*mlp.blobs"),
        (("--recipes", "fp32", "--device", "cpus"), "--device cpus: no such device"),
        (("--recipes", "fp32", "--device", "meta"), "--device meta: models are scored on cpu or c"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    assert run(*arguments, "--output", str(path)) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--dry-run", "--criterion", "1"),
        ("--dry-run", "--threads", "0"),
        ("--dry-run", "--threads", "999999"),
    ],
)
def test_missing_output_and_odd_numbers_are_refused(
    arguments: tuple[str, ...],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": "tile-workbench/kernels/2"}',
        '{"schema": "tile-workbench/accuracy/1", "rows": [{"pair": "a"}]}',
        '{"schema": "tile-workbench/accuracy/1", "rows": [',
    ],
)
def test_a_file_of_another_kind_or_a_damaged_one_is_left_as_it_is(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert run("--recipes", "fp32", "--output", str(path)) == 2
    assert "choose another output" in capsys.readouterr().err
    assert path.read_text() == text


def test_the_default_recipes_exist() -> None:
    assert set(RECIPES) - {"fp32"} <= set(NAMED)
    assert len(RECIPES) == 12
