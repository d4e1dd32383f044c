"""The weight-only products in CUDA C++ on torch tensors, on GPUs of capability 9.0.

Weights are those that ``pack_weight`` made: all kernels of the function read one layout.
"""

from typing import Any

import torch
from torch import Tensor

from ._cupy_views import optional_view, stream, view
from ._hopper_gemm import obstacle as missing
from ._lookup import Choice, template
from ._torch_device import NAMES, aligned_rows, device_facts
from ._workspace import zeroed_words

UNALIGNED = "rows of x, the output or the weight's parts do not start at multiples of 16 bytes"

#: Codes, scales and zero points where there are any, scales of rows.
Parts = tuple[Tensor, Tensor | None, Tensor | None, Tensor]


def obstacle(x: Tensor, parts: Parts, out: Tensor) -> str:
    """Why the kernel cannot run a call, or ''."""
    held = (part for part in parts if part is not None)
    if not (aligned_rows(x) and aligned_rows(out)) or any(part.data_ptr() % 16 for part in held):
        return UNALIGNED
    return missing(x.device)


def launch(choice: Choice, x: Tensor, parts: Parts, out: Tensor) -> None:
    """``out = x · w^T`` with a configuration, whatever rows it was tuned for."""
    layout, module = choice.file.layout, template(choice)
    codes, scale, zero, row_scale = parts
    group = layout["block"][1]
    config, more = choice.config, {}
    if "per_sm" in config:  # of few rows: CTAs may share tiles
        config, words = _shared(module, config, (*out.shape, codes.shape[0]), x.device)
        workspace = zeroed_words(words, module.COUNTED_TILES, x.device) if words else None
        more["workspace"] = optional_view(workspace)
    with torch.cuda.device(x.device):
        module.launch(
            view(x),
            view(codes),
            view(out),
            optional_view(scale),
            optional_view(zero),
            row_scale=view(row_scale),
            element=layout["activation"],
            out=NAMES[out.dtype],
            weight=layout["element"],
            scale_format=layout["stored"] if group else "",
            group=group,
            config=config,
            stream=stream(x.device),
            **more,
        )


def _shared(
    module: Any,
    config: "dict[str, int | bool]",
    shape: tuple[int, int, int],
    device: torch.device,
) -> "tuple[dict[str, int | bool], int]":
    """A configuration that the extents of a call allow, and the words of its workspace.

    It may have been tuned for others: it counts no more tiles than it can, and no CTA of a cluster
    is without a panel of K.

    Args:
        shape: (M, N, panels).
    """
    m, n, panels = shape
    if int(config["cluster"]) > panels:
        config = {**config, "cluster": max(one for one in module.CLUSTERS if one <= panels)}
    tiles = -(-m // int(config["block_m"])) * -(-n // int(config["block_n"]))
    if tiles > module.COUNTED_TILES:
        config = {**config, "per_sm": 0}  # tuned for fewer rows: a GPU is full without sharing
    _, num_sms = device_facts(device)
    return config, module.workspace_words(m, n, panels, config, num_sms)
