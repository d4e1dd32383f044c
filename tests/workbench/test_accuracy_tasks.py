"""What pairs are made of: metrics, corpora drawn from packages, trained models and their cache."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accuracy_tasks import blob_task, blobs, small_model
from torch import nn

from bench.accuracy import classification, functions, named, sections
from bench.accuracy.classification import by_area, matching
from bench.accuracy.corpus import Corpus, Labelled
from bench.accuracy.coverage import Coverage
from bench.accuracy.pairs import all_pairs, chosen
from bench.accuracy.retrieval import mean_reciprocal_rank
from bench.accuracy.sections import headed
from bench.accuracy.text_data import next_bytes, snippets
from bench.accuracy.training import Metric, Split
from bench.accuracy.vision_data import digits, noisy_digits


def test_reciprocal_ranks_are_those_of_a_sorted_list() -> None:
    generator = torch.Generator().manual_seed(0)
    similarities = torch.randn(40, 40, generator=generator)
    ranks = [
        sorted(row.tolist(), reverse=True).index(float(row[i])) + 1
        for i, row in enumerate(similarities)
    ]
    assert mean_reciprocal_rank(similarities) == pytest.approx(sum(1 / r for r in ranks) / 40)
    assert mean_reciprocal_rank(torch.eye(40)) == 1


def test_random_embeddings_score_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    chance = sum(1 / rank for rank in range(1, 257)) / 256
    queries, answers = torch.randn(2, 256, 384, generator=generator)
    assert mean_reciprocal_rank(queries @ answers.T) == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_a_model_that_answers_the_same_to_all_has_found_nothing(value: float) -> None:
    assert mean_reciprocal_rank(torch.full((50, 50), value)) == pytest.approx(1 / 50)


def test_coverage_counts_losses_and_what_has_no_score() -> None:
    found = Coverage.of(
        recipe="mxfp4",
        scheme="standard",
        tuned=False,
        family="",
        changes={"a": 0.5, "b": -0.01, "c": -0.011, "d": None, "e": math.nan, "f": 0.0},
    )
    assert (found.pairs, found.passed, found.share) == (6, 3, 0.5)
    assert (found.missed, found.unscored) == (("c",), ("d", "e"))
    assert found.worst_change == -0.011
    assert found.mean_change == pytest.approx((0.5 - 0.01 - 0.011) / 4)


def test_metrics_have_their_known_values() -> None:
    target = torch.tensor([0, 1, 1])
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]))
    assert Metric.ACCURACY.score(logits, target) == pytest.approx(2 / 3)
    assert Metric.RIGHT_PROBABILITY.score(logits, target) == pytest.approx((0.9 + 0.8 + 0.3) / 3)
    values = torch.tensor([[1.0], [2.0], [6.0]])
    assert Metric.R2.score(values, values) == 1
    assert Metric.R2.score(torch.full((3, 1), 3.0), values) == 0
    for metric in Metric:
        assert math.isnan(metric.score(torch.full((3, 2), math.nan), target))


MODULE = '''
def mean(values, *, weights=None):
    """Compute the mean of many values, one weight for each.

    Notes
    -----
    {notes}

    References
    ----------
    None.
    """
    # By hand.
    total = 0.0
    count = 0
    for value in values:
        total += value
        count += 1
    return total / count


def short(x):
    """Return twice the number that was given, nothing else."""
    return 2 * x
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of forty modules with a function each that is worth finding."""
    folder = tmp_path / "carried"
    folder.mkdir()
    for number in range(40):
        notes = " ".join(f"note{number}word{word}" for word in range(25))
        text = MODULE.replace("many", f"many-{number}").replace("{notes}", notes)
        (folder / f"module{number:02}.py").write_text(text.replace("By hand", f"Way {number}"))
    for module in (functions,):
        monkeypatch.setattr(module, "package_folder", lambda name: folder)
        monkeypatch.setattr(module, "origin", lambda *names: "carried 1.0")
    monkeypatch.setattr(Corpus.of.__func__, "__kwdefaults__", {"calibration": 4, "least": 8})
    return folder


def test_a_docstring_is_cut_out_of_the_function_that_it_asks_for(package: Path) -> None:
    corpus = functions.functions("carried", pool=20)
    assert (len(corpus.pool), len(corpus.calibration)) == (20, 4)
    assert not set(corpus.pool) & set(corpus.calibration)
    for one in corpus.pool:
        assert one.query.startswith("Compute the mean of many-")
        assert one.answer.startswith("def mean(values, *, weights=None):\n    # Way ")
        assert "Compute" not in one.answer
        assert '"""' not in one.answer
        assert one.answer.endswith("return total / count")
        number = one.query.split("many-")[1].split()[0]
        assert f"# Way {number}.\n" in one.answer


def test_a_changed_package_changes_the_digest_and_a_new_file_moves_no_other(
    package: Path,
) -> None:
    before = functions.functions("carried", pool=20)
    assert functions.functions("carried", pool=20).digest == before.digest
    (package / "broken.py").write_text("def f(:\n")
    (package / "tests").mkdir()
    (package / "tests" / "test_mean.py").write_text((package / "module00.py").read_text())
    assert functions.functions("carried", pool=20).digest == before.digest
    (package / "new.py").write_text(MODULE.replace("By hand", "Otherwise"))
    queries = {one.query for one in functions.functions("carried", pool=20).pool}
    assert len(queries & {one.query for one in before.pool}) >= 18
    for path in package.glob("module*.py"):
        path.write_text(path.read_text().replace("total = 0.0", "total = 0.5"))
    assert functions.functions("carried", pool=20).digest != before.digest


def test_notes_are_found_below_summaries(package: Path) -> None:
    corpus = functions.notes("carried", pool=40)
    one = corpus.pool[0]
    number = one.query.split("many-")[1].split()[0]
    assert one.answer == " ".join(f"note{number}word{word}" for word in range(25))


def test_a_package_with_too_little_is_refused(package: Path) -> None:
    for path in sorted(package.glob("module*.py"))[:32]:
        path.unlink()
    with pytest.raises(ValueError, match=r"functions-carried: 8 labelled pairs.*at least 12"):
        functions.functions("carried", pool=20)


def test_markdown_and_restructured_text_have_titles() -> None:
    markdown = "# One title\nfirst\n```\n# no title\n```\n## Two #\nsecond\nthird\n"
    assert list(headed(markdown)) == [
        ("One title", "first\n```\n# no title\n```"),
        ("Two", "second\nthird"),
    ]
    rst = "One title\n=========\n\nfirst\n\nLast\n----\nsecond\n\nlong enough\n----\nno title\n"
    assert [title for title, _ in headed(rst)] == ["One title", "Last"]


def test_a_title_that_many_readmes_have_labels_nothing() -> None:
    rows = [Labelled(query=q, answer=q + a) for q, a in (("A b", "1"), ("a B", "2"), ("C d", "3"))]
    assert [one.query for one in sections._once(rows)] == ["C d"]


def test_a_text_of_two_classes_has_no_label() -> None:
    found = by_area({"x": ["one", "both"], "y": ["both", "two", "three", "four"]}, "here")
    assert sorted(texts[0] for texts, _ in (*found.kept, *found.judged)) == [
        "four",
        "one",
        "three",
        "two",
    ]
    assert {label for texts, label in (*found.kept, *found.judged) if texts[0] == "one"} == {0}


def test_docstrings_that_are_judged_by_match_none_that_was_trained_on(package: Path) -> None:
    texts = matching([functions.functions("carried", pool=20)])
    assert [label for _, label in texts.judged] == [1, 0] * 10
    kept = {text for pair, _ in texts.kept for text in pair}
    assert not kept & {text for pair, _ in texts.judged for text in pair}
    assert texts.classes == ("another function", "its function")


@pytest.mark.slow  # torch's optimisers load in seconds
def test_the_linear_layer_learns_what_embeddings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {f"text {n}": row for n, row in enumerate(torch.randn(80, 6))}
    monkeypatch.setattr(
        classification, "embed", lambda model, texts, limit: torch.stack([points[t] for t in texts])
    )
    rows = tuple(((text,), int(row[0] > 0)) for text, row in points.items())
    texts = classification.Texts(classes=("no", "yes"), kept=rows, judged=rows, source="")
    head = classification._trained_head(nn.Identity(), texts, 6)
    logits = head(torch.stack(list(points.values())))
    labels = torch.tensor([label for _, label in rows])
    assert Metric.ACCURACY.score(logits, labels) > 0.9


def trainings(log: list[int]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = small_model()
        model.register_forward_pre_hook(
            lambda module, _: log.append(1) if module.training else None
        )
        return model

    return build


@pytest.mark.slow  # torch's optimisers load in seconds
def test_a_trained_model_is_kept_until_something_that_decides_it_changes(tmp_path: Path) -> None:
    log: list[int] = []
    task = blob_task(tmp_path, build=trainings(log))
    score = task.score(task.model())
    steps = len(log)
    assert steps == 32  # eight epochs of two hundred samples in batches of 64
    again = blob_task(tmp_path, build=trainings(log))
    assert again.score(again.model()) == score
    assert len(log) == steps
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])  # cut off
    assert again.score(again.model()) == score  # trained anew, to the same numbers
    assert len(log) == 2 * steps
    for other in (replace(task, seed=1), replace(task, data=lambda: blobs(1))):
        assert other.digest() != task.digest()
    assert score > 0.8
    judged = {tuple(row.tolist()) for row in blobs().test_inputs[0]}
    assert not any(tuple(row.tolist()) in judged for (b,) in task.calibration() for row in b)


@pytest.mark.slow  # torch's optimisers load in seconds
def test_training_leaves_the_callers_generator_and_threads(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    blob_task(tmp_path).model()
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_thirty_pairs_of_four_families_have_names_of_their_own(tmp_path: Path) -> None:
    pairs = all_pairs(tmp_path)
    assert len(pairs) >= 30
    assert len({pair.name for pair in pairs}) == len(pairs)
    assert {pair.family for pair in pairs} == {"encoder", "text", "vision", "table"}
    assert not any("/" in pair.name for pair in pairs)
    named = chosen("mlp.iris,minilm.re*", pairs)
    assert [pair.name for pair in named] == ["mlp.iris", "minilm.readmes"]
    assert {pair.family for pair in chosen("text", pairs)} == {"text"}


def test_pairs_that_a_command_can_name_exist() -> None:
    for name in named.__all__:
        pair = getattr(named, name)()
        assert pair.name in {one.name for one in all_pairs()}


@pytest.mark.slow  # trains for seconds
def test_models_learn_what_packages_carry(tmp_path: Path) -> None:
    pairs = {pair.name: pair for pair in all_pairs(tmp_path)}
    floors = {"mlp-wide.digits": 0.95, "bytes-mean.kinds": 0.85, "mlp.diabetes": 0.4}
    for name, floor in floors.items():
        pair = pairs[name]
        assert pair.score(pair.model()) > floor, name
        card = pair.card()
        assert card.samples > 200
        assert card.counted is (name != "mlp.diabetes")


@pytest.mark.slow  # scikit-learn loads in seconds
@pytest.mark.parametrize("data", [digits, noisy_digits, snippets, next_bytes])
def test_nothing_that_is_judged_was_trained_on(data: Callable[[], Split]) -> None:
    split = data()
    trained = {row.numpy().tobytes() for row in split.inputs[0]}
    judged = [row.numpy().tobytes() for row in split.test_inputs[0]]
    assert not [row for row in judged if row in trained]
    assert len(split.target) == len(split.inputs[0]) > 100
    assert len(split.test_target) == len(judged) > 100
    assert split.digest == data().digest
