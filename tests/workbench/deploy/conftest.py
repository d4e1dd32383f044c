"""A run of three rows that files of linear layers are written from."""

from dataclasses import replace

import pytest
from measured_studies import PLAIN, linear, run_of

from tuning import Run


@pytest.fixture
def linear_run() -> Run:
    fast = replace(PLAIN, tma=True, persistent=True)
    return run_of(
        linear(1, [(replace(PLAIN, block_m=16, group_m=1), 20.0), (fast, 16.0)]),
        linear(64, [(PLAIN, 30.0), (replace(PLAIN, num_stages=4), 29.0)]),
        linear(1024, [(replace(PLAIN, block_m=128, num_warps=8), 80.0)]),
    )
