"""Pairs carried to another host, and scores of two devices beside each other."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accuracy_tasks import GOOD, Fitted, Rounded, round_weights
from torch import nn

from bench.accuracy import carried
from bench.accuracy.__main__ import main
from bench.accuracy.agreement import agreement
from bench.accuracy.beside import beside, beside_table, read_other
from bench.accuracy.beside import main as beside_main
from bench.accuracy.carried import BATCH_TOKENS, batches_of, carried_pairs
from bench.accuracy.functions import functions
from bench.accuracy.quantizer import Quantizer, workbench_quantizer
from bench.accuracy.record import AccuracyRecord
from bench.accuracy.retrieval import Retrieval
from bench.accuracy.run import measure_all
from workbench.ptq import quantize


@pytest.mark.parametrize(("texts", "longest", "length"), [(70, 40, 64), (3, 9, 16), (33, 128, 128)])
def test_batches_have_one_size_and_every_text_once_before_any_again(
    texts: int, longest: int, length: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 99, (texts, longest), generator=generator, dtype=torch.int32)
    ids[0, 2:] = -1
    batches = batches_of(ids)
    assert {tuple(one.shape) for batch in batches for one in batch} == {
        (BATCH_TOKENS // length, length)
    }
    rows = torch.cat([given for given, _ in batches])[:texts]
    mask = torch.cat([seen for _, seen in batches])[:texts]
    assert torch.equal(rows[:, :longest], ids.clamp_min(0).long())
    assert torch.equal(mask.sum(1), (ids >= 0).sum(1))
    assert rows[:, longest:].sum() == 0


@pytest.mark.parametrize("content", [b"", b"no file of tensors", None])
def test_a_file_without_pairs_is_refused_by_its_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "carried.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"carried\.safetensors"):
        carried_pairs(path)


def test_another_file_of_tensors_is_no_carried_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    asked = ["--carried", str(path), "--output", str(tmp_path / "a.json"), "--recipes", "fp32"]
    assert main(asked) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "python -m bench.accuracy.carried" in line


def test_only_retrieval_is_carried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "carried.safetensors"
    assert carried.main(["--pairs", "mlp.iris", "--output", str(path)]) == 2
    assert "only retrieval" in capsys.readouterr().err
    assert not path.exists()


def said(**ran: str) -> Quantizer:
    """Rounds and says what ran."""

    def quantize(model: nn.Module, recipe: str, **how: Any) -> Any:
        made: Rounded = round_weights(model, recipe, bits=None)
        return SimpleNamespace(model=made.model, ran=ran)

    return Quantizer(quantize=quantize, digest="said")


def test_a_row_tells_what_ran_and_a_record_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = AccuracyRecord(path, {"command": "test", "device": "cpu"}, criterion=0.01)
    base, row = measure_all([Fitted()], ["int8-row"], said(codes="a kernel"), record)
    assert base.ran == {}
    assert row.ran == {"codes": "a kernel"}
    again = AccuracyRecord(path, {"command": "test", "device": "cpu"}, criterion=0.01)
    assert again.find(row) == row


def test_scores_of_two_devices_stand_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    record = AccuracyRecord(path, {"command": "test", "device": "cpu"}, criterion=0.01)
    base, row = measure_all([Fitted()], ["int8-row"], GOOD, record)
    other = read_other(path)
    found = beside([base, row], other)
    assert found["devices"] == ["cpu"]
    assert [one["apart"] for one in found["rows"]] == [0.0, 0.0]
    assert "| mlp.blobs | int8-row |" in beside_table(found, "cuda")
    content = json.loads(path.read_text())
    content["rows"][1]["score"] *= 2
    content["rows"][0]["digest"] = "of other data"
    path.write_text(json.dumps(content))
    (only,) = beside([base, row], read_other(path))["rows"]
    assert only["recipe"] == "int8-row"
    assert only["apart"] == pytest.approx(-0.5)


def test_a_record_without_a_common_row_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    record = AccuracyRecord(path, {"command": "test", "device": "cpu"}, criterion=0.01)
    measure_all([Fitted()], ["int8-row"], GOOD, record)
    with pytest.raises(ValueError, match="shares no row"):
        beside([], read_other(path))
    path.write_text(json.dumps({"schema": "tile-workbench/block/1"}))
    with pytest.raises(ValueError, match="no record to stand beside"):
        read_other(path)
    with pytest.raises(ValueError, match="no record to stand beside"):
        read_other(tmp_path / "none.json")


def test_the_command_keeps_both_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> int:
        return main(
            ["--recipes", "int8-row", *words],
            make_pairs=lambda cache: [Fitted()],
            make_quantizer=lambda: GOOD,
        )

    first, second = tmp_path / "a.json", tmp_path / "b.json"
    assert run("--output", str(first)) == 0
    assert run("--output", str(second), "--beside", str(tmp_path / "none.json")) == 2
    assert not second.exists()  # refused before anything is measured
    assert run("--output", str(second), "--beside", str(first)) == 0
    assert "| pair | recipe | cpu | cpu | apart % |" in capsys.readouterr().out
    stored = json.loads(second.read_text())["beside"]
    assert stored["file"] == "a.json"
    assert {one["recipe"]: one["apart"] for one in stored["rows"]} == {"fp32": 0.0, "int8-row": 0.0}
    content = json.loads(second.read_text())
    second.write_text(json.dumps(content | {"beside": None}))
    assert beside_main([str(second), str(first)]) == 0
    assert json.loads(second.read_text()) == content
    assert beside_main([str(second), str(tmp_path / "none.json")]) == 2
    assert run("--output", str(second)) == 0
    assert json.loads(second.read_text())["beside"] == stored  # kept by a run without


@pytest.mark.slow
def test_a_carried_pair_scores_as_the_one_that_it_was_made_of(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    corpus = functions("numpy", pool=24)
    pair = Retrieval(name="minilm.few", corpus=lambda: corpus)
    path = tmp_path / "few.safetensors"
    carried.carry([pair], path)
    (found,) = carried_pairs(path)
    # Weights in fp16 move a similarity by 2^-11 of itself at most: no rank here hangs by that.
    assert found.score(found.model()) == pytest.approx(pair.score(pair.model()), abs=1e-3)
    assert path.stat().st_size < 2**25
    card = found.card()
    assert (card.name, card.samples) == ("minilm.few", 24)
    assert card.architecture.endswith("weights in fp16")
    assert [len(batch) for batch in found.calibration()] == [2, 2]
    (other,) = carried_pairs(path)
    assert other.digest() == found.digest()


def test_outputs_of_codes_are_those_of_the_cpu_and_others_are_seen(tmp_path: Path) -> None:
    pair = Fitted()
    exact, (batch, *_) = pair.model(), pair.calibration()
    made = quantize(exact, "int8-row", calibration=[batch])
    found = agreement(made, "int8-row", exact, batch, "cpu")
    assert found.apart == 0.0
    assert 1e-4 < found.noise < 0.1
    with torch.no_grad():
        layer = made.model[0]  # type: ignore[index]  # a Sequential
        layer.bias.add_(0.5)
        saved = made.save

    class Other:
        """Whose file holds another bias than the model that computes."""

        model = made.model

        def save(self, path: Path) -> Any:
            layer.bias.data.sub_(0.5)
            saved(path)
            layer.bias.data.add_(0.5)

    wrong = agreement(Other(), "int8-row", exact, batch, "cpu")
    assert wrong.noise == pytest.approx(found.noise)
    assert wrong.apart > 3 * wrong.noise


def test_the_command_computes_a_twin_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    asked = ["--recipes", "int8-row", "--output", str(path), "--twin", "mlp.blobs"]
    pairs = [Fitted(), Fitted(name="mlp.others")]
    assert main(asked, make_pairs=lambda cache: pairs, make_quantizer=workbench_quantizer) == 0
    assert "from the CPU's, where quantising costs" in capsys.readouterr().out
    rows = {(row["pair"], row["recipe"]): row for row in json.loads(path.read_text())["rows"]}
    assert rows["mlp.blobs", "int8-row"]["apart"] == 0.0
    assert rows["mlp.blobs", "int8-row"]["noise"] > 0
    assert rows["mlp.others", "int8-row"]["apart"] is None
    assert rows["mlp.blobs", "fp32"]["apart"] is None
    assert main([*asked[:-1], "mlp.bl"], make_pairs=lambda cache: pairs) == 2
