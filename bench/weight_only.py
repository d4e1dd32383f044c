"""Weight-only products beside cuBLAS: ``python -m bench.weight_only [--output FILE]``.

For every layer of Llama-3-8B and 70B and every number of tokens: ours, the best of the cost model's
first configurations as measured here, and the peers, interleaved under the workbench's timing rule
(cold L2).  Peers: ``torch.matmul`` in bf16, and torch's ``_weight_int4pack_mm`` for 4-bit weights
in groups of 128.  With ``--device cpu`` the kernels run in Triton's interpreter on tiny shapes and
no time is printed: what is shown is that answers are right and that the script works.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.turns import find_gpu, geomean_worst, in_turns, tried, write_record
from sim import Gpu, price
from tiles.kernels import TileConfig, kernel
from tiles.problems import Gemm
from tiles.recipes import Recipe

#: (N, K) of Llama-3-8B's and 70B's layers: QKV, output, gate and up, down.
LAYERS = {
    "8B qkv": (6144, 4096),
    "8B o": (4096, 4096),
    "8B gate_up": (28672, 4096),
    "8B down": (4096, 14336),
    "70B qkv": (10240, 8192),
    "70B o": (8192, 8192),
    "70B gate_up": (57344, 8192),
    "70B down": (8192, 28672),
}
TOKENS = (1, 4, 8, 16, 32, 64, 2048, 4096)
WEIGHTS = (
    "int4.g128",
    "uint4.g128",
    "int4.g64",
    "int4.g32",
    "int8.row",
    "e4m3fn.row",
    "e2m1fn.mx",
    "nvfp4",
)
#: Bytes of bf16 weights from which the ratios below are asked for.
LARGE_BYTES = 64 * 2**20
#: (fewest tokens, most tokens, ratio to bf16) for int4 in groups of 128.
GOALS = ((1, 8, 3.0), (32, 32, 2.2), (2048, 1 << 30, 0.8))
TINY = {"tiny": (96, 256)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One layer, format and number of tokens."""

    layer: str
    weight: str
    m: int
    n: int
    k: int
    config: str
    ours_us: float | None  #: None where nothing was timed
    peers_us: dict[str, float]

    @property
    def ratio(self) -> float | None:
        """Time of bf16 over ours."""
        return None if self.ours_us is None else self.peers_us["torch.matmul bf16"] / self.ours_us

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"ratio_to_bf16": self.ratio}


def problem_of(weight: str, m: int, n: int, k: int) -> Gemm:
    """The product of bf16 activations with such weights."""
    pair = Recipe.of(f"bf16-by-{weight}", activation="bf16", weight=weight, source="bench")
    return Gemm(m=m, n=n, k=k, recipe=pair)


def candidates(problem: Gemm, gpu: Gpu, count: int) -> list[TileConfig]:
    """The model's fastest configurations, one of each tile first, and the default."""
    family = kernel("triton_weight_only")
    table = family.legal_space(problem, gpu.limits).accepted
    priced = price(problem, family, table, gpu)
    chosen: list[TileConfig] = []
    tiles: set[tuple[int, ...]] = set()
    ranked = priced.ranking().tolist()
    for row in ranked:
        tile = tuple(int(table[name][row]) for name in ("block_m", "block_n", "num_warps", "fold"))
        if tile not in tiles:
            tiles.add(tile)
            chosen.append(table.config(row))
        if len(chosen) == count // 2:
            break
    chosen += [c for c in map(table.config, ranked[:count]) if c not in chosen]
    return [family.default(problem, gpu.limits), *chosen][: count + 1]


def peers(problem: Gemm, seed: int) -> dict[str, tuple[Any, int]]:
    """Launchers and bytes of a set of what people use instead."""
    import torch

    m, n, k = problem.shape
    generator = torch.Generator(device="cuda").manual_seed(seed)

    def bf16(rows: int, cols: int) -> Any:
        return torch.randn(rows, cols, device="cuda", generator=generator).to(torch.bfloat16)

    def matmul(sets: int) -> list[Any]:
        made = [(bf16(m, k), bf16(n, k), bf16(m, n)) for _ in range(sets)]
        return [lambda s=s: torch.matmul(s[0], s[1].T, out=s[2]) for s in made]

    found = {"torch.matmul bf16": (matmul, 2 * (m * k + n * k + m * n))}
    if str(problem.recipe.weight) == "int4.g128" and m <= 64 and n % 8 == 0 and k % 1024 == 0:

        def packed(sets: int) -> list[Any]:
            made = []
            for _ in range(sets):
                codes = torch.randint(0, 255, (n, k // 2), device="cuda", dtype=torch.uint8)
                weights = torch._convert_weight_to_int4pack(codes, 8)
                made.append((bf16(m, k), weights, bf16(k // 128, 2 * n).view(k // 128, n, 2)))
            return [lambda s=s: torch._weight_int4pack_mm(s[0], s[1], 128, s[2]) for s in made]

        found["torch._weight_int4pack_mm"] = (packed, n * k // 2 + 2 * (m * k + m * n))
    return found


def measure(layer: str, weight: str, shape: tuple[int, int, int], gpu: Gpu, count: int) -> Row:
    """Search the model's best configurations, then time the winner beside the peers."""
    problem = problem_of(weight, *shape)
    workload = kernel("triton_weight_only").workload(problem, device="cuda", seed=0)
    times = tried(workload, candidates(problem, gpu, count))
    best = min(times, key=times.__getitem__)
    ours = (partial(workload.launchers, best), workload.set_bytes)
    timings = in_turns({"ours": ours, **peers(problem, seed=1)})
    times_us = {name: timing.time_us for name, timing in timings.items()}
    m, n, k = shape
    return Row(
        layer=layer,
        weight=weight,
        m=m,
        n=n,
        k=k,
        config=str(best),
        ours_us=times_us.pop("ours"),
        peers_us=times_us,
    )


def check_only(layer: str, weight: str, shape: tuple[int, int, int], gpu: Gpu) -> Row:
    """The default configuration's answer under the interpreter; nothing is timed."""
    problem = problem_of(weight, *shape)
    family = kernel("triton_weight_only")
    config = family.default(problem, gpu.limits)
    verdict = family.workload(problem, device="cpu", seed=0).check(config)
    if not verdict.ok:
        raise RuntimeError(f"{problem} {config}: {verdict.reason}")
    m, n, k = shape
    return Row(
        layer=layer, weight=weight, m=m, n=n, k=k, config=str(config), ours_us=None, peers_us={}
    )


def goal_lines(rows: Sequence[Row]) -> list[str]:
    """Geometric mean and worst ratio of each goal, over large layers in int4 groups of 128."""
    lines = []
    for least, most, goal in GOALS:
        ratios = [
            row.ratio
            for row in rows
            if row.ratio is not None
            and row.weight == "int4.g128"
            and least <= row.m <= most
            and 2 * row.n * row.k >= LARGE_BYTES
        ]
        if ratios:
            mean, worst = geomean_worst(ratios)
            span = (
                f"M = {least}"
                if most == least
                else f"M >= {least}"
                if most > 1e6
                else f"M <= {most}"
            )
            lines.append(f"int4.g128, {span}: {mean:.2f} x bf16 (worst {worst:.2f}, asked {goal})")
    return lines


def _line(row: Row) -> str:
    head = f"{row.layer:12} {row.weight:11} {row.m:5} x {row.n} x {row.k}"
    if row.ours_us is None:
        return f"{head}  right, not timed  [{row.config}]"
    rest = ", ".join(f"{name} {us:.1f} us" for name, us in row.peers_us.items())
    return f"{head}  {row.ours_us:.1f} us  {row.ratio:.2f} x bf16  ({rest})  [{row.config}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row as soon as it is known, then the goals; write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--layers", nargs="*", choices=(*LAYERS, *TINY))
    parser.add_argument("--weights", nargs="*", default=["int4.g128"], choices=WEIGHTS)
    parser.add_argument("--tokens", nargs="*", type=int)
    parser.add_argument("--configs", type=int, default=16, help="configurations to measure")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    dry = options.device == "cpu"
    if dry and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("--device cpu needs TRITON_INTERPRET=1 in the environment")
    layers = TINY if dry else LAYERS
    gpu = find_gpu(options.device)
    rows = []
    for layer in options.layers or layers:
        n, k = (LAYERS | TINY)[layer]
        for m in options.tokens or ((1, 5) if dry else TOKENS):
            for weight in options.weights:
                shape = (m, n, k)
                row = (
                    check_only(layer, weight, shape, gpu)
                    if dry
                    else measure(layer, weight, shape, gpu, options.configs)
                )
                rows.append(row)
                print(_line(row), flush=True)
    for line in goal_lines(rows):
        print(line)
    write_record(
        options.output,
        "tile-workbench/bench-weight-only/1",
        [row.to_dict() for row in rows],
        gpu="none" if dry else gpu.name,
    )


if __name__ == "__main__":
    main()
