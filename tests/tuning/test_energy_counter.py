"""Joules between steps of a counter, here of a board with a clock of its own."""

from collections.abc import Callable

import numpy as np
import pytest

from tuning.energy_counter import Counted, counted, settle


class Board:
    """Takes 2 J a launch, 40 launches a second; its counter steps ten times a second."""

    def __init__(self, step_s: float = 0.1, unit_j: float = 0.001) -> None:
        self.time_s, self.launched = 0.0, 0
        self._step_s, self._unit_j = step_s, unit_j

    def work(self) -> int:
        self.launched += 2
        self.time_s += 0.05
        return 2

    def energy_j(self) -> float | None:
        seen_s = np.floor(self.time_s / self._step_s + 1e-9) * self._step_s
        taken = 1e6 + 80.0 * seen_s
        return float(np.floor(taken / self._unit_j) * self._unit_j)

    def now(self) -> float:
        return self.time_s


def count(
    board: Board,
    energy_j: Callable[[], float | None] | None = None,
    work: Callable[[], int] | None = None,
) -> Counted | str:
    return counted(
        work or board.work,
        energy_j or board.energy_j,
        board.now,
        window_s=3.0,
        longest_s=30.0,
        least_steps=5,
    )


@pytest.mark.parametrize("step_s", [0.05, 0.1, 0.4, 1.0])
def test_joules_are_divided_between_steps_of_the_counter(step_s: float) -> None:
    board = Board(step_s)
    settle(board.work, 0.5, board.now)
    assert 0.5 - 1e-9 <= board.time_s < 0.6
    found = count(board)
    assert isinstance(found, Counted)
    assert found.launch_j == pytest.approx(2.0, rel=1e-4)
    assert found.launch_s == pytest.approx(1 / 40, rel=1e-4)
    assert found.power_w == pytest.approx(80.0, rel=1e-4)
    assert found.seconds >= 3.0 - 1e-9
    assert board.time_s < 3.5 + 5 * step_s + 0.1


def test_a_counter_that_is_not_there_or_stands_is_told() -> None:
    board = Board()
    assert count(board, lambda: None) == "there is no energy counter"
    assert board.launched == 0
    assert count(board, lambda: 5.0) == "the energy counter made 0 steps in 30 s: no use"


def test_a_counter_that_goes_back_is_told() -> None:
    board = Board()
    assert str(count(board, lambda: 1e3 - board.time_s)).startswith("the energy counter went back,")


def test_steps_without_a_launch_between_them_are_told() -> None:
    """A bout of minutes may be looked at twice before it ends."""
    board = Board()

    def slow() -> int:
        board.work()
        return 0

    found = count(board, work=slow)
    assert found == "no launch ended in 3.1 s between steps of the energy counter"
