"""One run of a training: pairs begin alike, go on to the bit, and end with a status."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from train_gpt_cases import WORDS, settings

from bench.train_gpt import training
from bench.train_gpt.model import build
from bench.train_gpt.outcome import Outcome, Run, Status
from bench.train_gpt.settings import FULL, RECIPES, SMOKE, Settings, Size
from bench.train_gpt.training import train
from workbench.nn import training_runtime

TEXT = np.frombuffer(WORDS.encode() * 40, np.uint8)
NEVER = float("inf")


class Clock:
    """Tells one second more with every question; a run asks once a step."""

    def __init__(self) -> None:
        self.now = 0

    def time(self) -> float:
        self.now += 1
        return self.now

    def perf_counter(self) -> float:
        return 0.0


def go(folder: Path, recipe: str, tiny: Settings, until: float = NEVER) -> Outcome:
    run = Run(recipe=recipe, seed=1)
    return train(
        run, tiny, TEXT, TEXT, device="cpu", checkpoint=folder / f"{run}.pt", until=until
    )  # fmt: skip


def test_every_recipe_begins_with_the_same_weights() -> None:
    first = build(SMOKE.size, "bf16", 3).state_dict()
    for recipe in RECIPES:
        state = build(SMOKE.size, recipe, 3).state_dict()
        assert state.keys() == first.keys()
        for name, value in state.items():
            assert torch.equal(value, first[name]), (recipe, name)
    other = build(SMOKE.size, "bf16", 4).state_dict()
    assert not torch.equal(other["embed.weight"], first["embed.weight"])


def test_the_recipes_are_followed_and_not_only_named() -> None:
    ids = torch.from_numpy(TEXT[:64].copy()).long().view(2, 32)
    with torch.no_grad():
        logits = {recipe: build(SMOKE.size, recipe, 3)(ids) for recipe in RECIPES}
    for recipe, found in logits.items():
        for other, beside in logits.items():
            assert recipe == other or not torch.equal(found, beside), (recipe, other)
        torch.testing.assert_close(found, logits["fp32"], rtol=0, atol=0.4)


def test_parameters_are_counted_as_the_model_has_them() -> None:
    model = build(SMOKE.size, "fp32", 0)
    assert sum(p.numel() for p in model.parameters()) == SMOKE.size.parameters
    assert FULL.size.parameters >= 10_000_000
    assert FULL.steps >= 2000


@pytest.mark.parametrize("recipe", ["jetfire", "int8-row", "fp32"])
def test_an_interrupted_run_goes_on_to_the_bit(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = settings(steps=5, curve=3, checkpoint=100, looks=5)
    monkeypatch.setattr(training, "time", Clock())
    (tmp_path / "whole").mkdir()
    whole = go(tmp_path / "whole", recipe, tiny)
    assert whole.status is Status.FINISHED
    assert [step for step, _ in whole.held_out_curve] == [1, 2, 3, 4, 5]
    assert [step for step, _ in whole.train_curve] == [3, 5]
    parts = []
    for _ in range(3):
        monkeypatch.setattr(training, "time", Clock())
        parts.append(go(tmp_path, recipe, tiny, until=3))  # two steps each
    assert [one.status for one in parts[:2]] == [Status.UNFINISHED, Status.UNFINISHED]
    assert [one.steps for one in parts] == [2, 4, 5]
    assert "behind step 2 of 5" in parts[0].reason
    assert parts[0].loss is None
    assert parts[2].held_out_curve == whole.held_out_curve
    assert parts[2].train_curve == whole.train_curve
    assert parts[2].loss == whole.loss


def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "time", Clock())
    go(tmp_path, "fp32", settings(steps=4), until=2)
    with pytest.raises(ValueError, match=r"fp32-1.pt: of fp32-1 \w+, not fp32-1 \w+: move it away"):
        go(tmp_path, "fp32", settings(steps=5))


def test_gradients_that_stay_infinite_end_a_run_as_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(size: Size, recipe: str, seed: int) -> Any:
        model = build(size, recipe, seed)
        with torch.no_grad():
            model.head.weight[0, 0] = float("nan")
        return model

    monkeypatch.setattr(training, "build", broken)
    found = go(tmp_path, "bf16", settings(steps=9, refused=3))
    assert found.status is Status.DIVERGED
    assert found.reason == "gradients were not finite in 3 steps in a row"
    assert (found.steps, found.refused, found.loss) == (3, 3, None)


def test_a_loss_above_a_uniform_guess_ends_a_run_as_diverged(tmp_path: Path) -> None:
    tiny = settings(steps=40, rate=0.9, curve=2, warmup=1)
    found = go(tmp_path, "fp32", tiny)
    assert found.status is Status.DIVERGED
    assert "a uniform guess has 5.545" in found.reason
    assert found.train_curve


def test_a_model_learns(tmp_path: Path) -> None:
    tiny = settings(steps=40, rate=3e-3, curve=10, looks=2)
    found = go(tmp_path, "fp32", tiny)
    assert found.status is Status.FINISHED
    assert found.held_out_curve[-1] == [40, found.loss]
    assert found.loss is not None
    assert found.loss < 2.5 < found.train_curve[0][1]


def test_the_rate_rises_and_falls_to_a_tenth() -> None:
    rates = [FULL.rate_at(step) for step in range(FULL.steps)]
    assert rates[0] == pytest.approx(FULL.rate / FULL.warmup)
    assert max(rates) == pytest.approx(FULL.rate)
    assert rates[-1] == pytest.approx(FULL.rate / 10, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 192}, r"width 192, 2 heads: a multiple of 128"),
        ({"heads": 3}, r"width 128, 3 heads"),
        ({"layers": 0}, r"layers 0: at least 1"),
    ],
)
def test_sizes_that_blocks_do_not_divide_are_refused(changes: Any, message: str) -> None:
    given = {"layers": 1, "width": 128, "heads": 2, "tokens": 8, "batch": 1} | changes
    with pytest.raises(ValueError, match=message):
        Size(**given)


def test_settings_are_read_as_they_were_written() -> None:
    tiny = settings(text={"digest": "abc"})
    assert Settings.from_dict(tiny.to_dict()) == tiny
    assert tiny.digest != settings(text={"digest": "abd"}).digest
    with pytest.raises(ValueError, match=r"no settings of a training"):
        Settings.from_dict(SimpleNamespace(size=1))


@pytest.mark.parametrize(("recipe", "packed"), [("mxfp6-e3m2", True), ("int8-row", False)])
def test_codes_of_six_bits_come_from_kernels_on_a_gpu(
    recipe: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PackedBackend", lambda device: ("packed", device))
    for kind in ("cpu", "cuda"):
        run = training_runtime(recipe)
        device = torch.device(kind)
        training._pack_codes(run, device)
        assert run.given == (("packed", device) if packed and kind == "cuda" else None)


@pytest.mark.slow
def test_packed_codes_are_the_twins_and_train_alike() -> None:
    script = Path(__file__).with_name("interpreted_packed.py")
    root = script.parents[2]
    done = subprocess.run(
        [sys.executable, str(script), "mxfp6-e3m2", "mxfp6-e2m3", "mxfp4"],
        env={**os.environ, "PYTHONPATH": str(root), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"mxfp6-e3m2": [], "mxfp6-e2m3": [], "mxfp4": []}
