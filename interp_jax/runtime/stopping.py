"""SIGTERM in a long loop: finish the step, keep what is done, then leave."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM has come, which then stops nothing by itself."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # handlers can be set in the main thread only
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
