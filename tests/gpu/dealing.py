"""Which GPU a worker process of pytest-xdist takes, where a host has several."""

from collections.abc import Sequence

__all__ = ["dealt"]


def dealt(worker: str, visible: str | None, listed: Sequence[str]) -> str | None:
    """What ``CUDA_VISIBLE_DEVICES`` should be in this process, or None to leave it as it is.

    Args:
        worker: ``PYTEST_XDIST_WORKER``, "gw0", "gw1" ...; empty where tests run in one process.
        visible: ``CUDA_VISIBLE_DEVICES`` as it stands, None where it is not set.
        listed: names of the host's GPUs, as CUDA takes them.
    """
    if not worker:
        return None
    gpus = list(listed) if visible is None else [name for name in visible.split(",") if name]
    if len(gpus) < 2:
        return None
    return gpus[int(worker.removeprefix("gw")) % len(gpus)]
