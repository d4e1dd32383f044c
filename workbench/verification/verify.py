"""Verification from outside: open, install, compare, and run the checks in a child process."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tiles.kernels import kernels
from tiles.kernels.closure import template_closure
from workbench.emission.evidence import digest
from workbench.verification.hub_kernel import HubKernel, is_hub_kernel, open_hub_kernel
from workbench.verification.kernels_library import library_checks
from workbench.verification.not_checked import without_gpu
from workbench.verification.package import (
    Package,
    check_files,
    installed_digests,
    open_package,
)
from workbench.verification.report import Check, Outcome, RivalTiming, VerifyReport
from workbench.verification.sandbox import PTH, Sandbox, make_sandbox

__all__ = ["verify"]

DEVICES = ("auto", "cuda", "cpu")
TIME_LIMIT_S = 1800
#: Exit status by which the child says that the caller's device is not there.
NO_DEVICE = 3


def verify(package: Path, *, device: str = "auto", seed: int | None = None) -> VerifyReport:
    """Check an emitted package: its files, its independence, its answers, and its speed.

    Args:
        package: an emitted folder, of a wheel or of a Hugging Face kernel, or a wheel.
        device: "cuda"; "cpu" for small shapes under Triton's interpreter; "auto" for a GPU where
            there is one.
        seed: of the random inputs; a fresh one by default.
    Raises:
        ValueError: not an emitted package, one that was changed after emission (the message names
            the file), or no such device.
    """
    if device not in DEVICES:
        raise ValueError(f"device {device!r}: choose one of {', '.join(DEVICES)}")
    on_hub = is_hub_kernel(package)
    opened = open_hub_kernel(package) if on_hub else open_package(package)
    seed = secrets.randbelow(2**31) if seed is None else seed
    checks = [
        Check(
            name="digests",
            status=Outcome.PASSED,
            detail=f"{len(opened.evidence['files'])} files as recorded",
        )
    ]
    with tempfile.TemporaryDirectory(prefix="workbench-verify-") as temporary:
        sandbox = make_sandbox(Path(temporary) / "venv", opened.installable, opened.name)
        installed = installed_digests(sandbox.site)
        installed.pop(PTH)
        check_files(installed, opened.module_files, "the installed package")
        detail = f"{len(installed)} files as recorded, {sandbox.how}"
        checks += [
            Check(name="installed files", status=Outcome.PASSED, detail=detail),
            _template_check(opened),
            _evidence_check(opened),
            *(library_checks(package) if on_hub else ()),
        ]
        lines = _run_child(opened, sandbox, Path(temporary), device, seed)
    used = next((line["device"] for line in lines if "device" in line), "unknown")
    environment: dict[str, Any] = next(
        (line["environment"] for line in lines if "environment" in line), {}
    )
    checks += [
        Check(name=line["check"], status=Outcome(line["status"]), detail=line["detail"])
        for line in lines
        if "check" in line
    ]
    return VerifyReport(
        package=str(opened.evidence["package"]),
        version=str(opened.evidence["version"]),
        path=str(package),
        device=used,
        statement=str(opened.evidence["statement"]),
        seed=seed,
        environment=environment,
        checks=tuple(checks),
        rivals=tuple(
            RivalTiming(**{**line["rival"], "samples_us": tuple(line["rival"]["samples_us"])})
            for line in lines
            if "rival" in line
        ),
        not_checked=without_gpu(opened.evidence["entries"]) if used == "cpu" else (),
    )


def _template_check(package: Package | HubKernel) -> Check:
    """Whether the package's templates are still the workbench's."""
    own = {
        source.name + family.name: digest(source.read_bytes())
        for family in kernels().values()
        if family.template.is_file()
        for source in template_closure(family.template)
    }
    templates = package.evidence["templates"]
    moved = [
        path
        for path, record in templates.items()
        if own.get(Path(path).name + record["kernel"]) != record["sha256"]
    ]
    if moved:
        return Check(
            name="templates",
            status=Outcome.SKIPPED,
            detail=f"the workbench has moved on since emission: {', '.join(sorted(moved))}",
        )
    detail = f"{len(templates)} files, byte for byte the workbench's own"
    return Check(name="templates", status=Outcome.PASSED, detail=detail)


def _evidence_check(package: Package | HubKernel) -> Check:
    """Repeats what the evidence says of itself; a simulated entry is nothing to pass."""
    simulated = bool(package.evidence["simulated"])
    return Check(
        name="evidence",
        status=Outcome.SKIPPED if simulated else Outcome.PASSED,
        detail=str(package.evidence["statement"]),
    )


def _run_child(
    package: Package | HubKernel, sandbox: Sandbox, folder: Path, device: str, seed: int
) -> list[dict[str, Any]]:
    """Run ``child.py`` in the sandbox; returns the lines that it wrote."""
    results = folder / "results.jsonl"
    job = folder / "job.json"
    job.write_text(
        json.dumps(
            {
                "package": package.name,
                # Modules of the Hub are loaded as a whole.
                "light": isinstance(package, Package),
                "device": device,
                "seed": seed,
                "results": str(results),
                "evidence": package.evidence,
                # Only once the package has run without them.
                "workbench": [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)],
            }
        ),
        encoding="utf-8",
    )
    command = [str(sandbox.python), "-I", str(Path(__file__).with_name("child.py")), str(job)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as stream:
        child = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
        try:
            status = child.wait(timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    text = results.read_text(encoding="utf-8") if results.is_file() else ""
    # A killed child may leave half a line.
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if status == NO_DEVICE:
        raise ValueError("device 'cuda': torch finds no GPU here; use device 'cpu' or 'auto'")
    if status != 0:
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
        how = f"took longer than {TIME_LIMIT_S} s" if status is None else f"ended with {status}"
        lines.append(
            {"check": "checking process", "status": "failed", "detail": f"it {how}: {last[:500]}"}
        )
    return lines
