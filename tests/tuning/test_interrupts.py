"""Signals are held back while something is half done, and never lost."""

import os
import signal

import pytest

from tuning.interrupts import Interrupts


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_is_held_back_until_it_is_asked_for() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012 - the order of what happens inside is the test
        interrupt()
        steps.append("half done")
        interrupts.check()
        steps.append("never")
    assert steps == ["half done"]


def test_a_signal_strikes_at_once_while_waiting() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012 - the order of what happens inside is the test
        with interrupts.let_through():
            interrupt()
            steps.append("never")
    assert steps == []


def test_a_second_signal_is_not_held_back() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts():  # noqa: PT012 - the order of what happens inside is the test
        interrupt()
        steps.append("first")
        interrupt()
        steps.append("never")
    assert steps == ["first"]


def test_a_signal_that_nobody_asked_for_is_delivered_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        interrupt()


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
