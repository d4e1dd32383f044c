"""AdamW whose weights and moments are kept in the formats of a recipe."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.recipes import Recipe, WeightUpdate
from workbench.nn.compiled import outside_graphs
from workbench.nn.seeds import derived

__all__ = ["LowPrecisionAdamW"]

_FP32 = TensorFormat.parse("fp32")
_MOMENTS = ("first", "second")
#: Parts of a tensor in codes, as they stand in the optimiser's state.
_PARTS = ("codes", "scales", "zero_points", "tensor_scale")


class LowPrecisionAdamW(torch.optim.Optimizer):
    """AdamW in fp32 arithmetic; what stays from step to step is rounded to formats.

    Weights are rounded to ``update.master`` after each step: bf16 by stochastic rounding, which
    moves a weight by a small step with the probability that the step has of its spacing, or bf16
    with a Kahan compensation that carries what rounding lost; or a scaled format, whose numbers a
    parameter of fp32 holds.  A bf16 parameter is a bf16 weight; in an fp32 parameter the same
    numbers take fp32's memory.

    Source: Decoupled Weight Decay Regularization, arXiv 1711.05101, algorithm 2; Revisiting
    BFloat16 Training, arXiv 2010.06192; FP8-LM, arXiv 2310.18313, for moments of 8 and 16 bits.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        update: str | WeightUpdate = "bf16+sr",
        moments: tuple[str | TensorFormat, str | TensorFormat] = ("fp32", "fp32"),
        gradient: str | TensorFormat = "fp32",
        seed: int = 0,
    ) -> None:
        """Optimise parameters; the first five arguments are those of ``torch.optim.AdamW``.

        Args:
            update: ``fp32``, ``bf16+sr``, ``bf16+kahan``, ``fp16.tensor``: see
                ``tiles.recipes.WeightUpdate``.
            moments: formats of the first and second moment, such as ``e4m3fn.tensor``.
            gradient: format that gradients are rounded to before they are used.
            seed: of stochastic rounding; keys follow from it, the step and the parameter's place.
        Raises:
            ValueError: a number out of its range, no format, or a parameter that does not hold the
                numbers of its format.
        """
        rates = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        for name, value in rates.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} {value}: a number from 0 on")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas {betas}: each from 0 to below 1")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed {seed}: a 64-bit unsigned integer")
        self.update = update if isinstance(update, WeightUpdate) else WeightUpdate.parse(update)
        if self.update.master is None:
            raise ValueError("update none: training keeps weights, such as bf16+sr or fp32")
        self.moments = tuple(map(_format, moments))
        self.gradient = _format(gradient)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.seed = seed

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of any optimiser.

        Raises:
            ValueError: a parameter that does not hold the numbers of its format.
        """
        super().add_param_group(param_group)
        try:
            for p in self.param_groups[-1]["params"]:
                _check_holds(p, self.update.master)
        except ValueError:
            self.param_groups.pop()  # torch has taken it by now
            raise

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe, **options: Any) -> "LowPrecisionAdamW":
        """Of a model's parameters, with the formats that a recipe keeps between steps.

        Raises:
            ValueError: as the class.
        """
        scaled = recipe.weight_gradient.scaling is not None
        return cls(
            model.parameters(),
            update=recipe.update,
            moments=recipe.moments,
            gradient=recipe.weight_gradient if scaled else _FP32,
            **options,
        )

    @outside_graphs
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient.

        Raises:
            ValueError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        place = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group, place)
                place += 1
        return loss

    def _step(self, p: torch.Tensor, group: Mapping[str, Any], place: int) -> None:
        if p.grad is None or p.grad.is_sparse:
            raise ValueError("sparse gradients: take torch.optim.SparseAdam for this parameter")
        state = self.state[p]
        state["step"] = step = state.get("step", 0) + 1
        key = derived(derived(self.seed, step), place)
        grad = _rounded(p.grad.float(), self.gradient, derived(key, 0))
        w = p.float()
        beta1, beta2 = group["betas"]
        first = self._moment(state, 0, w) * beta1 + grad * (1 - beta1)
        second = self._moment(state, 1, w) * beta2 + grad * grad * (1 - beta2)
        root = (second / _like(second, 1 - beta2**step)).sqrt() + group["eps"]
        towards = first / _like(first, 1 - beta1**step) / root
        move = -(towards * group["lr"] + w * (group["lr"] * group["weight_decay"]))
        for place_of, value in enumerate((first, second)):
            _keep(
                state, _MOMENTS[place_of], value, self.moments[place_of], derived(key, place_of + 1)
            )
        self._write(p, w, move, state, derived(key, 3))

    def _moment(self, state: Mapping[str, Any], place: int, like: torch.Tensor) -> torch.Tensor:
        kept = _kept(state, _MOMENTS[place], self.moments[place], like.shape)
        return torch.zeros_like(like) if kept is None else kept

    def _write(
        self,
        p: torch.Tensor,
        w: torch.Tensor,
        move: torch.Tensor,
        state: dict[str, Any],
        key: int,
    ) -> None:
        master = self.update.master
        assert master is not None  # __init__ refuses it
        if not self.update.kahan:
            p.copy_(_rounded(w + move, master, key))
            return
        # Source: arXiv 2010.06192, algorithm 3; the compensation is kept like the weight.
        lost = _kept(state, "lost", master, w.shape)
        y = move if lost is None else move - lost
        after = _rounded(w + y, master, key)
        _keep(state, "lost", _rounded(after - w, master, key) - y, master, key)
        p.copy_(after)

    def state_dict(self) -> dict[str, Any]:
        """As of any optimiser; formats and seed are part of it."""
        found: dict[str, Any] = super().state_dict()
        return found | {"formats": self._formats()}

    def _formats(self) -> dict[str, Any]:
        first, second = map(str, self.moments)
        return {"update": str(self.update), "moments": [first, second], "seed": self.seed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on to the bit.

        Raises:
            ValueError: a state of other formats, or not of this optimiser.
        """
        given, own = state_dict.get("formats"), self._formats()
        if not isinstance(given, Mapping) or {**given, "seed": own["seed"]} != own:
            raise ValueError(f"the state is of formats {given}, this optimiser keeps {own}")
        plain = {name: value for name, value in state_dict.items() if name != "formats"}
        super().load_state_dict(copy.deepcopy(plain))
        self.seed = given["seed"]
        # Torch casts what it loads to the parameter's dtype: codes are put back as they are.
        params = [p for group in self.param_groups for p in group["params"]]
        places = [n for group in state_dict["param_groups"] for n in group["params"]]
        for p, place in zip(params, places, strict=True):
            for name, value in state_dict["state"].get(place, {}).items():
                moved = isinstance(value, torch.Tensor)
                self.state[p][name] = value.to(p.device, copy=True) if moved else value


def _format(given: str | TensorFormat) -> TensorFormat:
    return given if isinstance(given, TensorFormat) else TensorFormat.parse(given)


def _check_holds(p: torch.Tensor, master: TensorFormat | None) -> None:
    """Refuse a parameter that has fewer bits than its weights."""
    assert master is not None  # __init__ refuses it
    own = master.scaling is None and CODE_DTYPES.get(master.element.name) is p.dtype
    if p.dtype is not torch.float32 and not own:
        raise ValueError(
            f"a parameter of {p.dtype} does not hold weights of {master}: keep it in fp32"
        )


def _like(x: torch.Tensor, number: float) -> torch.Tensor:
    """A divisor on the device: CUDA torch turns division by a Python number into a product."""
    return torch.full_like(x, number)


def _matrix(x: torch.Tensor) -> torch.Tensor:
    """Rows of the last dimension."""
    return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(1, -1)


def _coded(x: torch.Tensor, fmt: TensorFormat, key: int) -> QuantizedTensor:
    return quantize_tensor(_matrix(x), fmt, seed=key)


def _rounded(x: torch.Tensor, fmt: TensorFormat, key: int) -> torch.Tensor:
    """Numbers of a format, in fp32."""
    if fmt == _FP32 or not x.numel():
        return x
    return _coded(x, fmt, key).dequantize().view(x.shape)


def _keep(state: dict[str, Any], name: str, x: torch.Tensor, fmt: TensorFormat, key: int) -> None:
    if fmt == _FP32 or not x.numel():
        state[name] = x
        return
    made = _coded(x, fmt, key)
    for part in _PARTS:
        value = getattr(made, part)
        if value is not None:
            state[f"{name}.{part}"] = value


def _kept(
    state: Mapping[str, Any], name: str, fmt: TensorFormat, shape: torch.Size
) -> torch.Tensor | None:
    """What :func:`_keep` kept, in fp32; nothing before the first step."""
    if name in state:
        found: torch.Tensor = state[name]
        return found
    if f"{name}.codes" not in state:
        return None
    parts: dict[str, Any] = {part: state.get(f"{name}.{part}") for part in _PARTS}
    return QuantizedTensor(format=fmt, **parts).dequantize().view(shape)
