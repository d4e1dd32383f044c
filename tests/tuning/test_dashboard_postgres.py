"""The dashboard on a PostgreSQL storage: it shows a sweep, and no click costs a measurement."""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import postgres
import pytest

import workbench
from tuning.fleet import load_shared

pytest.importorskip("optuna_dashboard")
pytestmark = postgres.MARKS

FILE = """
schema: 1
gpu: h200
problems: [{shape: [256, 256, 256]}]
recipes: [bf16]
kernels: [triton_gemm]
search: {max_measurements: 8}
measure: {on: sim}
output: runs/small
"""
SERVE = """
import sys, workbench
workbench.dashboard("small", storage=sys.argv[1], port=0, ready=lambda u: print(u, flush=True))
"""


def test_it_serves_a_shared_sweep_and_deletes_nothing(
    tmp_path: Path, server: postgres.Server
) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    workbench.sweep(tmp_path / "small.yaml", storage=server.url)
    before = load_shared("small", server.url).studies
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, server.url],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        page = process.stdout.readline().strip()
        assert page.endswith("/dashboard"), process.communicate()[1][-3000:]
        place = page.removesuffix("/dashboard")
        with urllib.request.urlopen(f"{place}/api/studies") as answer:
            (found,) = json.load(answer)["study_summaries"]
        assert "gemm:256x256x256:bf16:bf16|triton_gemm|h200" in found["study_name"]
        deletion = urllib.request.Request(
            f"{place}/api/studies/{found['study_id']}", method="DELETE"
        )
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(deletion)
        with urllib.request.urlopen(f"{place}/api/studies/{found['study_id']}") as answer:
            assert len(json.load(answer)["trials"]) == 8
    finally:
        watchdog.cancel()
        process.kill()
        out, err = process.communicate()
    assert postgres.PASSWORD not in out + err
    assert load_shared("small", server.url).studies == before
