"""Signals that end a sweep are heard where nothing is half done."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupts"]


class Interrupts:
    """Holds SIGINT and SIGTERM back until :meth:`check`, or lets them through while waiting.

    An exception that a signal handler raises can strike between the taking of a lock and the
    statement that would release it; optuna's storage then waits for itself for ever.  A second
    signal is not held back.  Does nothing outside the main thread.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting = False
        self._held: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is None:
            self.check()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._waiting or self._held is not None:
            self._handlers[number](number, frame)
        else:
            self._held = number

    def check(self) -> None:
        """Deliver a signal that was held back: its handler may raise here."""
        if self._held is not None:
            number, self._held = self._held, None
            self._handlers[number](number, None)

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """While waiting for another process, which may take minutes, signals strike at once."""
        self.check()
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False
