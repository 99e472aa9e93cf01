"""A bar with rate and time left on a terminal or in a notebook; log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, TextIO

from interp_jax.runtime.process import is_writer

_LOG = logging.getLogger(__name__)


class Progress:
    """Shows how far a long piece of work is.

    Process 0 alone shows anything. The rate and the time left count only what this run did, so
    a resumed run is not flattered by what it found done.

    Args:
        total: how much work there is altogether.
        description: what is going on, in a few words.
        unit: what is counted, e.g. `"rollouts"`.
        start: how much was done before this run.
        log_every: seconds between log lines where there is no terminal.
        stream: where the bar goes (standard error by default).
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        unit: str = "steps",
        start: int = 0,
        log_every: float = 30.0,
        stream: TextIO | None = None,
    ):
        self.total, self.description, self.unit = total, description, unit
        self.start = self.done = start
        self.numbers: dict[str, Any] = {}
        self._log_every = log_every
        self._began = self._logged = time.monotonic()
        self._shown = is_writer()
        self._bar = None
        stream = sys.stderr if stream is None else stream
        if self._shown and (_is_terminal(stream) or _in_notebook()):
            import tqdm

            self._bar = tqdm.tqdm(
                total=total,
                initial=start,
                desc=description,
                unit=f" {unit}",
                file=stream,
                dynamic_ncols=True,
            )

    def update(self, amount: int = 1, **numbers: Any) -> None:
        """Tells that `amount` more is done, with a few numbers worth watching."""
        self.done += amount
        self.numbers.update(numbers)
        if self._bar is not None:
            if numbers:
                self._bar.set_postfix(self.numbers, refresh=False)
            self._bar.update(amount)
        elif self._shown and time.monotonic() - self._logged >= self._log_every:
            self._logged = time.monotonic()
            _LOG.info("%s", self.line())

    def line(self) -> str:
        """The state in one line: share done, rate, time left, numbers."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (self.done - self.start) / seconds
        parts = [f"{self.description}: {self.done}/{self.total} {self.unit}"]
        if rate > 0:
            parts.append(f"{rate:.3g} {self.unit}/s")
            if self.done < self.total:
                parts.append(f"{_clock((self.total - self.done) / rate)} left")
        parts += [f"{name} {value}" for name, value in self.numbers.items()]
        return ", ".join(parts)

    def close(self) -> None:
        """Ends the bar; where there was none, the last line is logged."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._shown:
            _LOG.info("%s", self.line())
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())


def _in_notebook() -> bool:
    # An embedded IPython without a kernel has a terminal or a log, and is no notebook.
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
