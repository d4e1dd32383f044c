"""The sentence encoder on real text: it is the trained one, and tells good from bad."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from accuracy_tasks import BAD, GOOD

from bench.accuracy.corpus import Corpus
from bench.accuracy.encoder import embed, load_encoder, random_encoder, tokens_of
from bench.accuracy.functions import functions
from bench.accuracy.record import AccuracyRecord, Status
from bench.accuracy.retrieval import Retrieval
from bench.accuracy.run import measure_all

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # transformers loads in seconds

TEXTS = (
    "How do I sort a list?",
    "Ordering the elements of an array",
    "Bananas are rich in potassium and grow in warm countries all over the world.",
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return functions("numpy", pool=24)


def test_embeddings_have_unit_length_and_meaning() -> None:
    sort, order, bananas = embed(load_encoder(), TEXTS, 64)
    assert sort.norm() == pytest.approx(1, abs=1e-5)
    assert sort @ order > sort @ bananas + 0.3


def test_padding_and_the_order_of_texts_change_nothing() -> None:
    model = load_encoder()
    together = embed(model, TEXTS, 64)
    for text, row in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(embed(model, [text], 64)[0], row, atol=1e-5, rtol=0)


def test_texts_are_cut_at_the_limit_and_counted() -> None:
    found = tokens_of(TEXTS, 10)
    assert (found.texts, found.longest, found.truncated) == (3, 10, 1)
    model = load_encoder()
    # Ten tokens with both special ones: "Bananas are rich in potassium and" and a piece more.
    short, long = embed(model, ["Bananas are rich in potassium", TEXTS[2]], 7)
    assert short @ long > 0.9


def test_the_trained_encoder_finds_functions_and_two_bits_do_not(corpus: Corpus) -> None:
    task = Retrieval(name="minilm.few", corpus=lambda: corpus)
    untrained = task.score(random_encoder())
    record = AccuracyRecord(None, {}, criterion=0.05)
    base, good = measure_all([task], ["int8-row"], GOOD, record)
    _, bad = measure_all([task], ["int8-row"], BAD, record)
    assert base.score is not None
    assert base.score > 0.7 > untrained + 0.1
    assert good.within(0.05)
    assert bad.status is Status.SCORED
    assert not bad.within(0.2)
    assert record.cards[task.name]["outliers"]["largest"] > 10
    card = task.card()
    assert (card.samples, card.parameters) == (24, 22_565_376)
    assert card.chance == pytest.approx(sum(1 / rank for rank in range(1, 25)) / 24)
    assert set(card.tokens) == {"query", "answer"}


def test_the_example_prints_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("workbench.ptq", reason="quantises with workbench.ptq")
    example = Path(__file__).parents[2] / "examples" / "quantize_encoder.py"
    given = ["quantize_encoder.py", "--pool", "16", "--recipes", "fp8-ptq-e4m3"]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    fp32, e4m3 = re.search(r"fp32 +(0\.\d+)\nfp8-ptq-e4m3 +(0\.\d+) +[-+]\d", said).groups()  # type: ignore[union-attr]
    assert float(e4m3) > 0.8 * float(fp32) > 0.5


def test_the_example_refuses_what_it_cannot_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("workbench.ptq", reason="quantises with workbench.ptq")
    example = Path(__file__).parents[2] / "examples" / "quantize_encoder.py"
    for given, said in ((["--pool", "1"], "at least 2"), (["--recipes", "fp9"], "unknown recipe")):
        monkeypatch.setattr(sys, "argv", ["quantize_encoder.py", *given])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(str(example), run_name="__main__")
        assert said in capsys.readouterr().err
