"""Workers of one run take the GPUs in turns."""

import pytest
from dealing import dealt


@pytest.mark.parametrize(
    ("worker", "visible", "wanted"),
    [
        ("", None, None),  # one process sees them all
        ("gw0", None, "0"),
        ("gw1", None, "1"),
        ("gw4", None, "1"),
        ("gw3", "2", None),  # one GPU was chosen already
        ("gw3", "5,7", "7"),
        ("gw3", "", None),  # none is to be seen
    ],
)
def test_gpu_of_a_worker(worker: str, visible: str | None, wanted: str | None) -> None:
    assert dealt(worker, visible, ("0", "1", "2")) == wanted


def test_a_host_without_a_gpu() -> None:
    assert dealt("gw0", None, ()) is None
