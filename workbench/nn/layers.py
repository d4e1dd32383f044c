"""Modules of the operators between products, with the parameters of the layers they replace."""

import torch
from torch import nn

from workbench.nn import operators
from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.compiled import outside_graphs
from workbench.nn.runtime import Runtime

__all__ = ["QuantizedActivation", "QuantizedDropout", "QuantizedNorm"]


class QuantizedActivation(nn.Module):
    """``gelu`` (exact), ``silu`` or ``relu`` on codes."""

    def __init__(self, op: str, runtime: Runtime) -> None:
        """An operator of ``workbench.nn.backend.ACTIVATIONS``."""
        super().__init__()
        self.op = op
        self.runtime = runtime

    @outside_graphs
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return operators.activation(x, self.op, self.runtime)

    def extra_repr(self) -> str:
        return f"{self.op}, recipe={self.runtime.recipe.name}"


class QuantizedDropout(nn.Module):
    """Dropout on codes; a plain tensor, such as the residual stream, is dropped from as it is."""

    def __init__(self, probability: float, runtime: Runtime) -> None:
        """Drop with a probability, rounded to 1 / 65536 for codes."""
        super().__init__()
        self.probability = probability
        self.runtime = runtime

    @property
    def p(self) -> float:
        """The probability, as ``nn.Dropout`` has it."""
        return self.probability

    @outside_graphs
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape; ``x`` itself in evaluation."""
        if not self.training or not self.probability:
            return x
        if not isinstance(x, CodedTensor):
            return nn.functional.dropout(x, self.probability)
        return operators.dropout(x, self.probability, self.runtime)

    def extra_repr(self) -> str:
        return f"p={self.probability}, recipe={self.runtime.recipe.name}"


class QuantizedNorm(nn.Module):
    """``layernorm`` or ``rmsnorm`` over the last dimension on codes."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        op: str,
        width: int,
        weight: nn.Parameter | None,
        bias: nn.Parameter | None,
        epsilon: float,
        runtime: Runtime,
    ) -> None:
        """Take a norm's parameters as they are; without a weight it scales by one."""
        super().__init__()
        self.op = op
        self.width = width
        self.epsilon = epsilon
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)
        self.runtime = runtime

    @property
    def eps(self) -> float:
        """What is added to the variance, as torch's norms have it."""
        return self.epsilon

    @property
    def normalized_shape(self) -> tuple[int]:
        """The last dimension, as torch's norms have it."""
        return (self.width,)

    @outside_graphs
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to the same, in codes."""
        gamma, beta = self.vectors(x)
        return operators.normalized(x, gamma, beta, self.op, self.epsilon, self.runtime)

    def vectors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gamma, and of LayerNorm beta, for an input.

        Raises:
            ValueError: the input is not as wide as the norm.
        """
        if x.shape[-1] != self.width:
            raise ValueError(f"input of {x.shape[-1]} features: this norm takes {self.width}")
        gamma: torch.Tensor | None = self.weight
        beta: torch.Tensor | None = self.bias
        if gamma is None:
            gamma = torch.ones(self.width, device=x.device)
        if self.op == "layernorm" and beta is None:
            beta = torch.zeros(self.width, device=x.device)
        return gamma, beta

    def extra_repr(self) -> str:
        return f"{self.op}, {self.width}, eps={self.epsilon}, recipe={self.runtime.recipe.name}"
