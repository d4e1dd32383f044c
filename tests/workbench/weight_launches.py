"""Calls of a package's weight-only product, and what reaches its launchers."""

import contextlib
import importlib
import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from fake_cupy import fake_cupy

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.weight_only_workload import pack_quantized

TRITON, HOPPER, PREFILL = "triton_weight_only", "hopper_weight_only", "hopper_weight_prefill"
DECODE, LONG = "gemm:16x64x512:w4a16-g128:bf16", "gemm:4096x64x512:w4a16-g128:bf16"


class Launches:
    """What reaches the launcher behind its own checks, and the Triton kernel."""

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda: list[dict[str, Any]] = []
        self.triton: list[Any] = []
        own = importlib.import_module(f"{module.__name__}._hopper_weight_only")
        self.own = own
        launcher = importlib.import_module(
            f"{module.__name__}.kernels.cuda.gemm_hopper_weight_only"
        )

        def launch(*operands: Any, **told: Any) -> None:
            x, codes, c, scale, zero = operands
            formats = {n: told[n] for n in ("element", "out", "weight", "scale_format", "group")}
            m, n, _ = launcher.check_operands(*operands, row_scale=told["row_scale"], **formats)
            launcher.options(**formats, config=told["config"])
            launcher.ctas(m, n, codes.shape[0], told["config"], 132)
            words = launcher.workspace_words(m, n, codes.shape[0], told["config"], 132)
            read = {"x": x, "codes": codes, "scale": scale, "zero": zero}
            launcher.check_workspace(told["workspace"], words, {"c": c}, read)
            self.cuda.append({**told, "operands": operands})

        shown = SimpleNamespace(
            launch=launch,
            COUNTED_TILES=launcher.COUNTED_TILES,
            CLUSTERS=launcher.CLUSTERS,
            workspace_words=launcher.workspace_words,
        )
        weight = importlib.import_module(f"{module.__name__}._weight_only")
        monkeypatch.setattr(module._lookup, "_warned", set())
        monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
        monkeypatch.setattr(own, "template", lambda choice: shown)
        monkeypatch.setattr(own, "stream", lambda device: "torch's stream")
        monkeypatch.setattr(own, "device_facts", lambda device: ("NVIDIA H200", 132))
        monkeypatch.setattr(own, "missing", lambda device: "")
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(weight, "check_device", lambda name, tensor: None)
        monkeypatch.setattr(weight, "device_facts", lambda device: ("NVIDIA H200", 132))
        plain = weight.run

        def run(choice: Any, *rest: Any) -> None:
            if choice.file.kernel == HOPPER:
                plain(choice, *rest)
            else:
                self.triton.append(choice)

        monkeypatch.setattr(weight, "run", run)


def weight_call(
    module: ModuleType, m: int, recipe: str = "w4a16-g128", n: int = 64, k: int = 512, **given: Any
) -> list[str]:
    """The operator's launch on tensors of these extents; the warnings that it gives."""
    fmt = "int4.g128+fp16" if recipe == "w4a16-g128" else "int8.row"
    packed = pack_quantized(quantize_tensor(torch.randn(n, k), TensorFormat.parse(fmt)))
    parts = {name: getattr(packed, name) for name in ("codes", "scale", "zero", "row_scale")}
    x = given.pop("x", torch.zeros(m, k, dtype=torch.bfloat16))
    parts |= given
    out = torch.empty(m, n, dtype=torch.bfloat16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module._weight_only._launch(x, *parts.values(), recipe, k, out)
    return [str(one.message) for one in caught]
