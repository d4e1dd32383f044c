"""Whether a stored result still holds: the source, device, driver and versions that it rests on."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tiles.kernels import Backend
from tiles.kernels.closure import source_digest
from tuning.environment import driver_version, nvrtc_version
from tuning.family import family
from tuning.records import Environment, Run, StudyRecord
from tuning.visible_gpu import visible_gpu

__all__ = ["changes", "host_environment", "stale_lines", "stale_studies", "staleness"]

#: What a kernel's time depends on beside its source; Python and NumPy do not take part.
_VERSIONS: Mapping[Backend, Sequence[str]] = {
    Backend.TRITON: ("torch", "triton", "cuda"),
    Backend.CUPY: ("cupy", "cuda", "nvrtc"),
    Backend.HOST: ("torch", "triton"),
}
_CUDA = re.compile(r"^cuda\b[^=]*= *['\"]([^'\"]+)['\"]", re.MULTILINE)


def host_environment() -> Environment | None:
    """Device, driver and versions here, without CUDA in this process; None without a GPU."""
    device = visible_gpu()
    if device is None:
        return None
    versions = {}
    for name, packages in (
        ("torch", ("torch",)),
        ("triton", ("triton",)),
        ("cupy", ("cupy-cuda13x", "cupy-cuda12x", "cupy")),
    ):
        for package in packages:
            try:
                versions[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    if cuda := _cuda_of_torch():
        versions["cuda"] = cuda
    if nvrtc := nvrtc_version():
        versions["nvrtc"] = nvrtc
    return Environment(
        gpu=device, driver=driver_version() or "unknown", sm_clock_mhz=None, versions=versions
    )


def _cuda_of_torch() -> str | None:
    """``torch.version.cuda`` as its file says; importing torch takes three seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        found = _CUDA.search((Path(spec.origin).parent / "version.py").read_text())
    except OSError:
        return None
    return None if found is None else found.group(1)


def changes(then: Environment, now: Environment, backend: Backend) -> list[str]:
    """What changed, e.g. ``"driver 570.1 then, 580.2 now"``; what either does not know is left out.

    Args:
        backend: of the kernel; what it does not run on does not matter.
    """
    pairs: list[tuple[str, str | None, str | None]]
    pairs = [("GPU", then.gpu, now.gpu), ("driver", then.driver, now.driver)]
    pairs += [
        (name, then.versions.get(name), now.versions.get(name)) for name in _VERSIONS[backend]
    ]
    return [
        f"{name} {old} then, {new} now"
        for name, old, new in pairs
        if old != new and not {None, "unknown", "absent"} & {old, new}
    ]


def staleness(study: StudyRecord, here: Environment | None) -> list[str]:
    """Why a study's results are stale; empty while they hold.

    The kernel's source is compared everywhere, the rest where the study's GPU is at hand:
    a result of another GPU is no staler for being looked at elsewhere.

    Args:
        here: of :func:`host_environment`.
    """
    try:
        kernel = family(study.kernel)
    except ValueError:
        return []  # a family of another distribution, which is not installed here
    found = []
    if study.source and study.source != source_digest(kernel.template):
        found.append(f"the source of {study.kernel} changed")
    if here is not None and study.environment is not None and here.gpu == study.environment.gpu:
        found += changes(study.environment, here, kernel.backend)
    return found


def stale_studies(run: Run) -> list[tuple[str, str]]:
    """Studies whose results rest on something that has changed since, each with what has."""
    here = host_environment()
    found = ((study, staleness(study, here)) for study in run.studies if study.trials)
    return [
        (f"{study.problem} with {study.kernel}", ", ".join(reasons))
        for study, reasons in found
        if reasons
    ]


def stale_lines(run: Run) -> list[str]:
    """A line for every study whose results rest on something that has changed since."""
    return [f"{study}: {reason}" for study, reason in stale_studies(run)]
