"""Functions of torch that no recipe has an operator for: they are listed where they are met."""

from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["LISTED"]

#: By what they are called in a model's list.  In-place variants (``relu_``) and those of Python's
#: operators (``__sub__``) belong to the name that they are variants of.
_NAMES = {
    "softmax": "softmax softmin log_softmax gumbel_softmax",
    "activation": "gelu relu relu6 silu sigmoid tanh hardtanh hardswish hardsigmoid hardshrink "
    "leaky_relu prelu rrelu elu selu celu mish glu logsigmoid softplus softsign softshrink "
    "tanhshrink threshold",
    "sub": "sub subtract rsub",
    "div": "div divide true_divide truediv rdiv rtruediv",
    "product": "einsum baddbmm addbmm addmv addr mv dot inner outer ger vdot kron tensordot "
    "chain_matmul multi_dot vecdot bilinear cdist addcmul addcdiv lerp cross",
    "norm": "group_norm rms_norm instance_norm local_response_norm",
    "convolution": "conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution",
    "embedding": "embedding embedding_bag",
    "attention": "multi_head_attention_forward",
}


def _variants(name: str) -> tuple[str, ...]:
    return name, f"{name}_", f"__{name}__", f"__i{name}__", f"__r{name}__"


def _listed() -> dict[Any, str]:
    spaces = (F, torch, torch.Tensor, torch.linalg, torch.special)
    return {
        found: what
        for what, names in _NAMES.items()
        for name in names.split()
        for variant in _variants(name)
        for space in spaces
        if callable(found := getattr(space, variant, None))
    }


LISTED = _listed()
