"""Tensors of more than 2^31 elements: the memory they ask for, and the rows that are looked at."""

import pytest

__all__ = ["need_memory", "sampled"]

#: Rows that a sample takes of each place.
_ROWS = 128


def need_memory(gib: float) -> None:
    """Skip the test where the GPU has less free memory; other processes may hold the rest."""
    import torch

    torch.cuda.empty_cache()
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    if free < gib:
        pytest.skip(f"needs {gib} GiB of GPU memory, {free:.1f} of {total:.1f} GiB are free")


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
