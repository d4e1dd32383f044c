"""Torch modules that train in low precision; importing this loads torch."""

from workbench.nn.adamw import LowPrecisionAdamW
from workbench.nn.attention import attention
from workbench.nn.backend import Backend
from workbench.nn.block import TransformerBlock
from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.codes import Codes
from workbench.nn.convert import Conversion, Kept, Replaced, convert
from workbench.nn.layers import QuantizedActivation, QuantizedDropout, QuantizedNorm
from workbench.nn.linear import QuantizedLinear
from workbench.nn.operators import activation, dropout, gated, normalized, residual_add
from workbench.nn.reference_backend import ReferenceBackend
from workbench.nn.residual import normed_stream
from workbench.nn.runtime import Runtime
from workbench.nn.seeds import SeedStream
from workbench.nn.step_guard import StepGuard, StepRefused, StepTaken
from workbench.nn.training_recipes import RECIPES, training_runtime
from workbench.nn.training_state import load_training_state, training_state

__all__ = [
    "RECIPES",
    "Backend",
    "CodedTensor",
    "Codes",
    "Conversion",
    "Kept",
    "LowPrecisionAdamW",
    "QuantizedActivation",
    "QuantizedDropout",
    "QuantizedLinear",
    "QuantizedNorm",
    "ReferenceBackend",
    "Replaced",
    "Runtime",
    "SeedStream",
    "StepGuard",
    "StepRefused",
    "StepTaken",
    "TransformerBlock",
    "activation",
    "attention",
    "convert",
    "dropout",
    "gated",
    "load_training_state",
    "normalized",
    "normed_stream",
    "residual_add",
    "training_runtime",
    "training_state",
]
