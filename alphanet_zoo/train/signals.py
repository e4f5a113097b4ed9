"""Ending a run when it is told to, at the end of a step instead of in the middle."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gathered_signals(seconds: float | None = None) -> Iterator[list[int]]:
    """Gathers SIGINT and SIGTERM in a list instead of dying of them, so that the step can end and be saved.

    Args:
        seconds: After so long, a SIGTERM is in the list as if it had been received; None for never.
    """
    caught: list[int] = []
    timer = threading.Timer(seconds or 0.0, caught.append, [signal.SIGTERM])
    timer.daemon = True
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda received, _: caught.append(received)) for number in numbers}
    try:
        if seconds is not None:
            timer.start()
        yield caught
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
