"""Tensors of more than 2^31 elements: the memory they ask for, and the rows that are looked at."""

import fcntl
import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

__all__ = ["huge", "sampled"]

#: Held while a test has huge tensors, so that tests in several processes have them in turn.
_LOCK = Path(tempfile.gettempdir()) / "tile-workbench-huge-tensors.lock"
#: Rows that a sample takes of each place.
_ROWS = 128


def _need(gib: float) -> None:
    """Skip the test where the GPU has less free memory; others may hold the rest."""
    import torch

    torch.cuda.empty_cache()
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    if free < gib:
        pytest.skip(f"needs {gib} GiB of GPU memory, {free:.1f} of {total:.1f} GiB are free")


@pytest.fixture
def huge() -> Iterator[Callable[[float], None]]:
    """A test that takes this is alone among such tests; it calls it with the GiB that it needs."""
    import torch

    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield _need
        gc.collect()
        torch.cuda.empty_cache()


def sampled(rows: int, cols: int) -> list[int]:
    """Rows of a matrix, ascending: the first, the last, those about element 2^31, some of the rest.

    Args:
        rows, cols: extents of a matrix of more than 2^31 elements.
    """
    assert rows * cols > 2**31
    middle = 2**31 // cols
    places = (range(_ROWS), range(rows - _ROWS, rows), range(middle - _ROWS // 2, middle + _ROWS))
    spread = range(0, rows, max(1, rows // _ROWS))
    return sorted({row for place in (*places, spread) for row in place if row < rows})
