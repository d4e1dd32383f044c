"""Counting the products that a loop's end leaves running."""

import pytest
from wgmma_order import left_running

PRODUCT = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r1,%r2}, {%r3,%r4}, %rd1, 1;"
SHARED = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r1,%r2}, %rd2, %rd1, 1;"
COMMIT = "wgmma.commit_group.sync.aligned;"


def _loop(*body: str) -> str:
    return "\n".join(("bra.uni $L__BB0_2;", "$L__BB0_1:", *body, "@%p1 bra $L__BB0_1;"))


def _wait(groups: int) -> str:
    return f"wgmma.wait_group.sync.aligned {groups};"


@pytest.mark.parametrize(
    ("body", "running"),
    [
        ((PRODUCT, COMMIT, _wait(0)), 0),
        ((PRODUCT, COMMIT, _wait(1)), 1),
        ((PRODUCT, PRODUCT, COMMIT, PRODUCT, COMMIT, _wait(1)), 1),
        ((PRODUCT, COMMIT, _wait(0), PRODUCT, PRODUCT, COMMIT), 2),
        ((_wait(0), PRODUCT), 1),
        ((SHARED, COMMIT, _wait(1)), 0),
    ],
)
def test_products_behind_the_last_wait_that_covers_them_are_running(
    body: tuple[str, ...], running: int
) -> None:
    assert left_running(_loop(*body)) == running


def test_products_outside_loops_are_not_counted() -> None:
    assert left_running("\n".join((PRODUCT, COMMIT, "bra $L__BB0_9;", "$L__BB0_9:"))) == 0
