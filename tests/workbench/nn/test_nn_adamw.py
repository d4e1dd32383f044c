"""AdamW with weights and moments in few bits: against a slow twin, and what rounding costs."""

import copy
import math

import numpy as np
import pytest
import torch
from nn_cases import normal
from torch import nn

from tiles.formats import TensorFormat, dequantize, quantize
from tiles.recipes import WeightUpdate, recipe
from workbench.nn import LowPrecisionAdamW, convert
from workbench.nn.seeds import derived

pytestmark = pytest.mark.slow  # torch's optimisers load its compiler first, for seconds

F = np.float32


class SlowTwin:
    """The same steps one number at a time, in NumPy's fp32, by the NumPy codec."""

    def __init__(self, w: np.ndarray, update: str, moments: tuple[str, str], seed: int) -> None:
        self.w, self.update = w.astype(F), WeightUpdate.parse(update)
        self.formats = [TensorFormat.parse(m) for m in moments]
        self.moments = [np.zeros_like(self.w), np.zeros_like(self.w)]
        self.lost = np.zeros_like(self.w)
        self.seed, self.taken = seed, 0

    @staticmethod
    def rounded(x: np.ndarray, fmt: TensorFormat, key: int) -> np.ndarray:
        if str(fmt) == "fp32":
            return x
        return dequantize(quantize(x, fmt, seed=key)).astype(F)

    def step(self, grad: np.ndarray, lr: float, betas: tuple[float, float], decay: float) -> None:
        self.taken += 1
        key = derived(derived(self.seed, self.taken), 0)
        move = np.zeros_like(self.w)
        new = [np.zeros_like(self.w), np.zeros_like(self.w)]
        for i in np.ndindex(*self.w.shape):
            g, w = F(grad[i]), self.w[i]
            m = F(F(self.moments[0][i] * F(betas[0])) + F(g * F(1 - betas[0])))
            v = F(F(self.moments[1][i] * F(betas[1])) + F(F(g * g) * F(1 - betas[1])))
            root = F(np.sqrt(F(v / F(1 - betas[1] ** self.taken))) + F(1e-8))
            towards = F(F(m / F(1 - betas[0] ** self.taken)) / root)
            move[i] = -F(F(towards * F(lr)) + F(w * F(lr * decay)))
            new[0][i], new[1][i] = m, v
        self.moments = [
            self.rounded(x, fmt, derived(key, n + 1))
            for n, (x, fmt) in enumerate(zip(new, self.formats, strict=True))
        ]
        master, last = self.update.master, derived(key, 3)
        assert master is not None
        if not self.update.kahan:
            self.w = self.rounded(self.w + move, master, last)
            return
        y = move - self.lost
        after = self.rounded(self.w + y, master, last)
        self.lost = self.rounded(self.rounded(after - self.w, master, last) - y, master, last)
        self.w = after


@pytest.mark.parametrize(
    ("update", "moments", "dtype"),
    [
        ("fp32", ("fp32", "fp32"), torch.float32),
        ("bf16+sr", ("fp32", "fp32"), torch.bfloat16),
        ("bf16+sr", ("bf16+sr", "bf16+sr"), torch.float32),
        ("bf16+kahan", ("fp32", "fp32"), torch.bfloat16),
        ("fp16.tensor", ("e4m3fn.tensor", "fp16.tensor"), torch.float32),
        ("fp32", ("int8.b1x128", "e5m2.b1x128"), torch.float32),
    ],
    ids=str,
)
def test_steps_are_those_of_the_slow_twin(
    update: str, moments: tuple[str, str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Math Kernel Library's root, which torch takes, is an ulp off on AMD's processors.
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: torch.from_numpy(np.sqrt(x.numpy())))
    p = nn.Parameter(normal(5, 24, seed=1).to(dtype))
    twin = SlowTwin(p.detach().float().numpy(), update, moments, seed=9)
    optimizer = LowPrecisionAdamW([p], lr=0.01, update=update, moments=moments, seed=9)
    for step in range(4):
        p.grad = normal(5, 24, seed=10 + step).to(dtype)
        twin.step(p.grad.float().numpy(), 0.01, (0.9, 0.999), 1e-2)
        optimizer.step()
        np.testing.assert_array_equal(p.detach().float().numpy(), twin.w)


def test_in_fp32_it_is_the_adamw_of_torch() -> None:
    ours, theirs = (nn.Parameter(normal(16, 16)) for _ in range(2))
    one = LowPrecisionAdamW([ours], lr=0.01, update="fp32")
    other = torch.optim.AdamW([theirs], lr=0.01)
    for step in range(20):
        ours.grad = normal(16, 16, seed=step)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def drift(update: str, steps: int, lr: float = 1e-4) -> torch.Tensor:
    """How far weights of 1 moved, in units of what they would in exact arithmetic."""
    p = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = LowPrecisionAdamW([p], lr=lr, weight_decay=0.0, update=update, seed=4)
    for _ in range(steps):
        p.grad = torch.ones_like(p)  # so Adam moves by lr in each step
        optimizer.step()
    return (1 - p.detach().double()) / (steps * lr)


def test_steps_below_the_spacing_of_bf16_are_lost_to_nearest_and_not_to_the_others() -> None:
    """Spacing below 1 is 2^-8: steps of 1e-4 are a fortieth of it.

    Stochastic rounding is unbiased.  A step moves a weight by 2^-8 with probability
    p = 1e-4 / 2^-8 = 0.0256, in independent trials: after 50 steps of 4096 weights the mean of the
    distance in units of 50 steps has a standard error of sqrt((1 - p) / (p · 50 · 4096)) = 0.0137.
    Five of them: a right rounding fails once in 1.7 million seeds, and the seed is fixed.  One part
    in 2^-16 / 0.0256 that probabilities are multiples of is 0.0006 at most.
    """
    nearest = drift("bf16", 50)
    assert float(nearest.abs().max()) == 0
    stochastic = drift("bf16+sr", 50)
    chance = 1e-4 / 2**-8
    error = math.sqrt((1 - chance) / (chance * 50 * stochastic.numel()))
    assert abs(float(stochastic.mean()) - 1) < 5 * error + 0.0006
    assert float(stochastic.std()) == pytest.approx(error * 64, rel=0.1)  # as of such trials
    kahan = drift("bf16+kahan", 50)
    spacing = 2**-8 / (50 * 1e-4)
    assert float((kahan - 1).abs().max()) <= spacing  # at most what is still carried


def test_other_seeds_round_otherwise_and_the_same_seed_alike() -> None:
    found = []
    for seed in (1, 1, 2):
        p = nn.Parameter(normal(32, 32).bfloat16())
        optimizer = LowPrecisionAdamW([p], lr=1e-3, seed=seed)
        p.grad = normal(32, 32, seed=2).bfloat16()
        optimizer.step()
        found.append(p.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_moments_are_kept_in_their_bytes() -> None:
    p = nn.Parameter(normal(64, 64))
    optimizer = LowPrecisionAdamW(
        [p], update="fp16.tensor", moments=("e4m3fn.tensor", "fp16.tensor")
    )
    p.grad = normal(64, 64, seed=1)
    optimizer.step()
    tensors = [t for t in optimizer.state[p].values() if isinstance(t, torch.Tensor)]
    assert sum(t.numel() * t.element_size() for t in tensors) == 64 * 64 * (1 + 2) + 2 * 4


@pytest.mark.parametrize(
    ("update", "moments"),
    [("bf16+sr", ("fp32", "fp32")), ("bf16+kahan", ("e4m3fn.tensor", "fp16.tensor"))],
    ids=str,
)
def test_a_state_goes_on_to_the_bit(update: str, moments: tuple[str, str]) -> None:
    def made(w: torch.Tensor, seed: int) -> tuple[nn.Parameter, LowPrecisionAdamW]:
        p = nn.Parameter(w.clone())
        return p, LowPrecisionAdamW([p], lr=0.01, update=update, moments=moments, seed=seed)

    def run(p: nn.Parameter, optimizer: LowPrecisionAdamW, steps: range) -> None:
        for step in steps:
            p.grad = normal(8, 32, seed=step).bfloat16()
            optimizer.step()

    p, optimizer = made(normal(8, 32).bfloat16(), 3)
    run(p, optimizer, range(2))
    state, w = copy.deepcopy(optimizer.state_dict()), p.detach().clone()
    run(p, optimizer, range(2, 5))
    again, other = made(w, 0)
    other.load_state_dict(state)
    run(again, other, range(2, 5))
    assert torch.equal(p, again)
    wrong = LowPrecisionAdamW([nn.Parameter(w.float())], update="fp32", moments=moments)
    with pytest.raises(ValueError, match=r"the state is of formats .*'fp32'"):
        wrong.load_state_dict(state)


@pytest.mark.parametrize("name", ["bf16-sr", "bf16-kahan", "fp8-lm", "jetfire"])
def test_a_recipe_names_what_is_kept_between_steps(name: str) -> None:
    """A converted layer learns: the loss of a linear map falls by half."""
    torch.manual_seed(0)
    model = convert(nn.Linear(32, 32), name).model
    if name.startswith("bf16"):
        model = model.bfloat16()
    optimizer = LowPrecisionAdamW.of(model, recipe(name), lr=0.02, seed=1)
    assert optimizer.update == recipe(name).update
    x = normal(64, 32, dtype=next(model.parameters()).dtype)
    wanted = x.flip(1)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (model(x).float() - wanted.float()).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_gradients_of_eight_bits_are_rounded_before_they_are_used() -> None:
    p = nn.Parameter(torch.zeros(1, 16))
    optimizer = LowPrecisionAdamW.of(nn.ParameterList([p]), recipe("fp8-lm"), lr=1.0)
    p.grad = torch.full((1, 16), 1e-6)
    p.grad[0, 0] = 448.0  # the scale is 1: the others are below half of E4M3's least number
    optimizer.step()
    assert float(p[0, 0].detach()) < -0.9
    assert float(p[0, 1:].detach().abs().max()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr -1.0: a number from 0 on"),
        ({"betas": (1.0, 0.9)}, r"betas \(1.0, 0.9\): each from 0 to below 1"),
        ({"seed": -1}, "seed -1: a 64-bit unsigned integer"),
        ({"update": "none"}, "update none: training keeps weights"),
        ({"update": "bf17"}, "bf17"),
        ({"update": "fp16.tensor"}, "torch.bfloat16 does not hold weights of fp16.tensor: keep it"),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit(options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        LowPrecisionAdamW([nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))], **options)


def test_a_group_that_is_refused_is_not_taken() -> None:
    optimizer = LowPrecisionAdamW([nn.Parameter(torch.zeros(3))], update="bf16+sr")
    with pytest.raises(ValueError, match="does not hold weights of bf16"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3, dtype=torch.float16))]})
    assert len(optimizer.param_groups) == 1


def test_refuses_sparse_gradients() -> None:
    table = nn.Embedding(8, 4, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse gradients"):
        LowPrecisionAdamW(table.parameters(), update="fp32").step()
