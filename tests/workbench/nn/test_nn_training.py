"""A tiny GPT on text keeps bf16's loss, not under a bad recipe; example and page run.

In one file, because torch's optimisers load its compiler, once for every process of tests.
"""

import re
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from tiles.formats import TensorFormat
from tiles.recipes import Recipe, recipe
from workbench.nn import RECIPES

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "train_int8_gpt.py"
PAGE = ROOT / "docs" / "training.md"
#: Of bf16's loss.  Jetfire ends 1 % below it, four-bit tensors 17 % above, two seeds each.
MARGIN = 0.05


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = spec_from_file_location("train_int8_gpt", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


def four_bit_tensors() -> Recipe:
    """Deliberately bad: fifteen values for a whole tensor, gradients rounded towards zero."""
    fmt, cut = (TensorFormat.parse(f"int4.tensor{rounding}") for rounding in ("", "+rtz"))
    return replace(
        recipe("jetfire"), name="bad", activation=fmt, weight=fmt, output=fmt, gradient=cut
    )


@pytest.mark.slow
def test_jetfire_keeps_the_loss_of_bf16_and_a_bad_recipe_does_not(example: ModuleType) -> None:
    """A paragraph that the model learns by heart, so that its block has to work."""
    text = example.text_of(ROOT / "LICENSE")[1000:1600].repeat(40)
    size = example.Size(width=32, heads=2, layers=1, tokens=32, batch=4, steps=50, rate=1e-2)
    seeds = (0, 1)
    losses = {
        name: [example.train(size, chosen, text, seed=s, device="cpu") for s in seeds]
        for name, chosen in (("bf16", "bf16"), ("jetfire", "jetfire"), ("bad", four_bit_tensors()))
    }
    assert max(losses["bf16"]) < 2.5  # from 5.5: it has learned
    worse = {
        name: sum(a / b - 1 for a, b in zip(found, losses["bf16"], strict=True)) / len(seeds)
        for name, found in losses.items()
    }
    assert worse["jetfire"] < MARGIN < worse["bad"], losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("bf16", "AdamW"), ("jetfire", "AdamW"), ("bf16-sr", "LowPrecisionAdamW"),
                       ("fp8-lm", "LowPrecisionAdamW")],
)  # fmt: skip
def test_the_example_steps_as_the_recipe_has_it(name: str, kind: str, example: ModuleType) -> None:
    optimizer = example.optimizer_of(nn.Linear(16, 16), name, rate=1e-3, seed=0)
    assert type(optimizer).__name__ == kind
    if kind != "AdamW":
        assert optimizer.update == recipe(name).update


@pytest.mark.slow
def test_the_example_runs_as_it_is(example: ModuleType, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "argv", ["train_int8_gpt.py", "--steps", "2"])
    example.main()
    bf16, jetfire = capsys.readouterr().out.splitlines()
    assert bf16.startswith("bf16: 2 steps, validation loss ")
    assert jetfire.startswith("jetfire: 2 steps, validation loss ")


def test_norms_of_the_plain_model_read_numbers_of_their_parameters_dtype(
    example: ModuleType,
) -> None:
    """CUDA's LayerNorm takes no others; a CPU's does."""
    size = example.Size(width=32, heads=2, layers=1, tokens=8, batch=2, steps=1, rate=1e-3)
    model = example.build(size, "bf16", 0, "cpu")
    norms = [layer for layer in model.modules() if isinstance(layer, nn.LayerNorm)]
    seen: list[bool] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda m, x: seen.append(x[0].dtype is m.weight.dtype))
    model(torch.zeros(2, 8, dtype=torch.long))
    assert seen == [True] * len(norms) == [True] * 3


def test_every_recipe_stands_in_the_table_of_the_page() -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## Recipes\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line[:2] == "| "]
    named = set(re.findall(r"`([a-z0-9-]+)`", " ".join(row.split("|")[1] for row in rows)))
    assert named == set(RECIPES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu"], "--gpu: torch sees no CUDA device here; leave it out for the tiny model"),
        (["--steps", "0"], "--steps 0: at least 1"),
        (["--text", "nowhere.txt"], "--text nowhere.txt: no such file"),
        (["--recipe", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_the_example_says_what_does_not_fit(
    arguments: list[str], message: str, example: ModuleType, capsys, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "argv", ["train_int8_gpt.py", *arguments])
    monkeypatch.setattr(example.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        example.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_its_large_model_has_ten_million_parameters(example: ModuleType) -> None:
    with example.torch.device("meta"):
        model = example.Gpt(example.LARGE)
    assert sum(p.numel() for p in model.parameters()) >= 10_000_000
