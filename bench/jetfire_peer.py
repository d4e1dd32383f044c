"""Jetfire's own kernels as a peer that is not installed: what they took on an H200, as recorded."""

import json
from pathlib import Path

from tiles.problems import Gemm

__all__ = ["RECORD", "released_us"]

RECORD = Path(__file__).parents[1] / "evidence" / "h200" / "jetfire-released.json"


def released_us(problem: Gemm, gpu: str) -> tuple[float, str]:
    """Time of the released kernel on such a GPU, and what the figure is.

    Args:
        problem: a product with 32x32 blocks; whatever its rounding, it is held against the
            forward kernel, which rounds to nearest and is the faster one.
        gpu: the device's name.
    Raises:
        ValueError: another GPU, or a shape that was not recorded.
    """
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if gpu != record["gpu"]:
        raise ValueError(f"recorded on {record['gpu']}, the device is {gpu or 'the CPU'}")
    for row in record["rows"]:
        if tuple(row["shape"]) == problem.shape:
            note = f"recorded {record['date']}, forward: {row['forward']} TFLOP/s; not in this run"
            return problem.flops / row["forward"] / 1e6, note
    raise ValueError(f"no record of {'x'.join(map(str, problem.shape))}")
