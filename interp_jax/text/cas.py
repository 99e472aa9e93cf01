"""Equality of two LaTeX answers by a computer algebra system, with a hard time limit.

Model output can spell expressions that no CAS finishes (towers of powers), and such work sits in
compiled integer code where neither a Python signal handler nor a thread can stop it. So the
comparison runs in a worker process which ends when its time is over (by its own alarm, else by a
kill); the next comparison starts a new one.

The parser takes the longest beginning that it can read and drops the rest: it finds 4 in "4 and",
in "4 +" and in "4)". What breaks off like that is no whole answer (`unfinished`) and equals
nothing but its own spelling.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import queue
import re
import subprocess
import sys
import threading

from interp_jax.runtime.errors import UserError

TIME_LIMIT_S = 5.0
_START_LIMIT_S = 120.0

_WORKER = r"""
import json, logging, resource, signal, sys
logging.disable(logging.CRITICAL)
from math_verify import LatexExtractionConfig, ExprExtractionConfig, parse, verify
# Not handled on purpose: the default action of the alarm ends the process even inside C code.
signal.signal(signal.SIGALRM, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
def read(answer):
    rules = [LatexExtractionConfig(), ExprExtractionConfig()]
    return parse("$" + answer + "$", rules, parsing_timeout=None, raise_on_error=False)
print("ready", flush=True)
for line in sys.stdin:
    first, second, seconds = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        a, b = read(first), read(second)
        same = bool(a) and bool(b) and bool(verify(a, b, timeout_seconds=None))
    except Exception:
        same = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps(same), flush=True)
"""


_WORD = r"(?:and|or)(?![a-z])"
_BROKEN_OFF = re.compile(
    rf"^\W*{_WORD}|(?<![a-z\\]){_WORD}\W*$"  # a list without its first or last part
    r"|(?:[-+*/^_=<>×÷]|\\(?:times|cdot|div|pm|frac|sqrt|[lg]eq?|neq?))\s*$",
    re.IGNORECASE,
)
_WORDS_OF_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}")


def unfinished(answer: str) -> bool:
    r"""Whether an answer breaks off: begins or ends with a connecting word, ends with an operation
    or a relation, or has brackets that do not pair up.

    Half-open intervals `(1, 2]` pair up; a leading `=` is not missing anything.
    """
    plain = _WORDS_OF_TEXT.sub(r"\1", answer).replace(r"\{", "(").replace(r"\}", ")")
    depth = 0
    for sign in plain:
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return True
    return depth != 0 or _BROKEN_OFF.search(plain) is not None


class _Worker:
    """One CAS process, spoken to in lines; `ask` gives None when the time is over."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.alive = self._next(_START_LIMIT_S) == "ready"
        if not self.alive:
            self.close()

    def _read(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line.strip())
        self._lines.put("")

    def _next(self, seconds: float) -> str | None:
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return None

    def ask(self, first: str, second: str, seconds: float) -> bool | None:
        try:
            self._process.stdin.write(json.dumps([first, second, seconds]) + "\n")
            self._process.stdin.flush()
        except OSError:
            self.close()
            return None
        reply = self._next(seconds + 1.0)
        if not reply:
            self.close()
            return None
        return bool(json.loads(reply))

    def close(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()


_lock = threading.Lock()
_worker: _Worker | None = None


def close_cas() -> None:
    """Ends the worker process, if one runs. It also ends by itself with this process."""
    global _worker
    with _lock:
        if _worker is not None and _worker.alive:
            _worker.close()
        _worker = None


atexit.register(close_cas)


@functools.lru_cache(maxsize=65536)
def cas_equal(first: str, second: str, time_limit_s: float = TIME_LIMIT_S) -> bool:
    """Whether two LaTeX expressions are equal, decided by math-verify (sympy).

    Args:
        first, second: expressions without dollar signs, such as `\\frac{1}{2}`.
        time_limit_s: seconds after which the answer is False.

    Returns:
        True only if both are whole (`unfinished`), parse, and are proven equal; undecided in time
        counts as not equal.

    Raises:
        UserError: math-verify is not installed (extra `demo`).
    """
    global _worker
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            found="no math-verify package",
            expected="the extra 'demo' for comparing LaTeX answers",
            do="install interp_jax[demo] or compare without a CAS (cas=False)",
        )
    if unfinished(first) or unfinished(second):
        return False
    with _lock:
        if _worker is None or not _worker.alive:
            _worker = _Worker()
        if not _worker.alive:
            raise UserError(
                found="a CAS worker that does not start",
                expected="math-verify with an antlr4 runtime it supports",
                do="run 'python -c \"import math_verify\"' to see why, or pass cas=False",
            )
        return bool(_worker.ask(first, second, time_limit_s))
