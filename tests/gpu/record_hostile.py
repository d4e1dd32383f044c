"""Sweep over configurations that break their process, and write down how every one ended.

``python tests/gpu/record_hostile.py RECORD.json`` with real CUDA faults, ``--cpu`` with faults that
need no GPU.  Exit code 0 when every configuration ended as it must and the good ones were measured.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import hostile_gpu_kernels
import hostile_kernels
from fake_kernels import GPU, gemm

import tuning
from tuning import JobLimits, Plan, Strategy, StudyPlan

SCHEMA = "tile-workbench/hostile/1"
CPU_LIMITS = JobLimits(
    check_s=60, check_floor_s=2, time_s=2, time_floor_s=2, host_bytes=hostile_kernels.HOST_BYTES
)
#: A fresh process imports CuPy and Triton within its first check.
GPU_LIMITS = JobLimits(check_s=60, check_floor_s=6, time_s=6, time_floor_s=4)


def record(folder: Path, *, cpu: bool, flood_bytes: int) -> dict[str, Any]:
    """Run the sweep in ``folder``: what every configuration ended with, and what it should have."""
    os.environ[hostile_kernels.FLOOD_VARIABLE] = str(flood_bytes)
    module: Any = hostile_kernels if cpu else hostile_gpu_kernels
    kernel = "hostile_kernels:HostileKernel" if cpu else "hostile_gpu_kernels:FaultKernel"
    plan = Plan(
        studies=(StudyPlan(problem=gemm(), kernel=kernel),),
        folder=folder,
        gpu=GPU,
        strategy=Strategy.EXHAUSTIVE,
    )
    marks = [time.monotonic()]
    run = tuning.run(
        plan,
        lambda event: marks.append(time.monotonic()) if event.trial is not None else None,
        price=module.price,
        limits=CPU_LIMITS if cpu else GPU_LIMITS,
        precompile=0,
        retry_failures=True,
    )
    (study,) = run.studies
    configs = []
    for trial, begun, ended in zip(study.trials, marks, marks[1:], strict=False):
        mode = module.mode_of(trial.config)
        status, reason = module.MODES[mode]
        found = trial.measurement
        configs.append(
            {
                "mode": mode,
                "config": trial.config.to_dict(),
                "expected": status.value,
                "status": found.status.value,
                "reason": found.reason,
                "right": found.status is status and reason in found.reason,
                "time_us": found.time_us,
                "conditions": None if found.conditions is None else asdict(found.conditions),
                "seconds": round(ended - begun, 2),
            }
        )
    return {
        "schema": SCHEMA,
        "environment": None if study.environment is None else study.environment.to_dict(),
        "flood_bytes": flood_bytes,
        "seconds": round(marks[-1] - marks[0], 1),
        "complete": {entry["mode"] for entry in configs} == set(module.MODES)
        and len(configs) == study.legal_size,
        "right": all(entry["right"] for entry in configs),
        "configs": configs,
    }


def main() -> int:
    """Write the record; 1 when a configuration ended otherwise than it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--flood-bytes", type=int, default=10**10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # no failure is remembered beyond this run
        found = record(Path(folder) / "run", cpu=arguments.cpu, flood_bytes=arguments.flood_bytes)
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    arguments.record.write_text(json.dumps(found, indent=1) + "\n")
    for entry in found["configs"]:
        mark = "ok " if entry["right"] else "BAD"
        print(f"{mark} {entry['mode']:22} {entry['status']:12} {entry['seconds']:6.2f} s", end="  ")
        print(entry["reason"][:100])
    print(f"{found['seconds']} s, complete: {found['complete']}, right: {found['right']}")
    return 0 if found["complete"] and found["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
