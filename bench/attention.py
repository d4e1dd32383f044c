"""Attention alone: torch's choice and FlashAttention-2, forward and backward, beside the model.

    python -m bench.attention --commit HASH --output evidence/h200/attention.json

Every case runs half a second before it is sampled, so that the clock is that of a layer's steps;
the names of the kernels come from a profile behind the times.  A backward pass is timed alone.
``--device cpu`` runs one small case, to see that it does.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.block_profile import profile
from bench.block_timing import Clock
from bench.command_line import recorded
from sim import load_gpu
from sim.network.attention import Attention, AttentionKernel
from sim.network.attention_cost import attention_cost
from tuning.environment import read_environment
from workbench.outfile import check_outfile, write_outfile

if TYPE_CHECKING:
    import torch

__all__ = ["CASES", "SCHEMA", "main"]

SCHEMA = "tile-workbench/attention/1"
SETTLE_S = 0.25


def _case(sequences: int, heads: int, kv_heads: int, length: int, head_dim: int) -> Attention:
    return Attention(
        sequences=sequences,
        heads=heads,
        kv_heads=kv_heads,
        length=length,
        head_dim=head_dim,
        causal=True,
    )


#: The layers of ``bench.block`` and ``bench.patch``, then one of either changed at a time.
CASES = (
    _case(8, 64, 64, 1024, 64),
    _case(2, 64, 64, 1024, 64),
    _case(4, 32, 8, 2048, 128),
    _case(1, 32, 8, 512, 128),
    _case(8, 32, 32, 1024, 128),
    _case(2, 64, 64, 4096, 64),
    _case(1, 16, 16, 16384, 128),
    replace(_case(2, 64, 64, 4096, 64), causal=False),
)
SMALL = _case(1, 2, 2, 32, 16)


def _steps(work: Attention, device: str) -> dict[str, Callable[[], Any]]:
    """Both directions on random normal operands."""
    import torch
    from torch.nn import functional

    generator = torch.Generator(device=device).manual_seed(1)
    made: dict[str, Any] = {"generator": generator, "dtype": torch.bfloat16, "device": device}
    q, k, v = (
        torch.randn(work.sequences, work.length, heads, work.head_dim, **made)
        .transpose(1, 2)
        .requires_grad_()
        for heads in (work.heads, work.kv_heads, work.kv_heads)
    )

    def forward() -> "torch.Tensor":
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=work.causal, enable_gqa=work.heads != work.kv_heads
        )

    def forward_alone() -> None:
        with torch.no_grad():
            forward()

    out = forward()
    gradient = torch.randn(out.transpose(1, 2).shape, **made).transpose(1, 2)

    def backward() -> None:
        torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)

    return {"forward": forward_alone, "backward": backward}


def _predicted_us(work: Attention, kernel: AttentionKernel, direction: str) -> float:
    one = replace(work, kernel=kernel, backward=direction == "backward")
    return float(attention_cost(one, load_gpu("h200")).time_us[0])


def _measured(
    work: Attention, device: str, kernel: AttentionKernel, clock: Clock
) -> dict[str, Any]:
    """By direction: samples, kernels, and what the model tells; a refusal says why."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    flash = kernel is AttentionKernel.FLASH_2
    found: dict[str, Any] = {}
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else nullcontext():
        try:
            for direction, step in _steps(work, device).items():
                found[direction] = clock.time(step) | {
                    "predicted_us": _predicted_us(work, kernel, direction),
                    "kernels": {
                        one.kernel: one.time_us for one in profile(step, device, settle_s=0.0)
                    },
                }
        # torch says so where a backend serves no such shape; out of memory is one, too.
        except RuntimeError as error:
            found["refused"] = str(error).splitlines()[0][:200]
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, required=True)
    given = sys.argv[1:] if given is None else list(given)
    chosen = parser.parse_args(given)
    try:
        check_outfile(chosen.output, SCHEMA)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cuda = chosen.device == "cuda"
    clock = Clock(chosen.device, SETTLE_S if cuda else 0.0)
    rows = []
    for work in CASES if cuda else (SMALL,):
        row: dict[str, Any] = {"work": str(work), "kv_heads": work.kv_heads}
        for kernel in AttentionKernel:
            row[kernel.value] = _measured(work, chosen.device, kernel, clock)
            print(_line(work, kernel, row[kernel.value]), flush=True)
        rows.append(row)
        content = {
            "schema": SCHEMA,
            "device": chosen.device,
            "commit": chosen.commit,
            "command": recorded("bench.attention", given),
            "environment": read_environment(chosen.device).to_dict(),
            "rows": rows,
        }
        write_outfile(chosen.output, json.dumps(content, indent=1) + "\n")
    return 0


def _line(work: Attention, kernel: AttentionKernel, found: dict[str, Any]) -> str:
    if "refused" in found:
        return f"{work} {kernel.value}: {found['refused']}"
    told = (
        f"{direction} measured {one['measured_us']:.1f} us, predicted {one['predicted_us']:.1f}"
        for direction, one in found.items()
    )
    return f"{work} {kernel.value}: {'; '.join(told)}"


if __name__ == "__main__":
    sys.exit(main())
