"""How a script starts and ends: flags parsed, bad input told in one sentence, an exit code."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app

from interp_jax.runtime.atomic import FULL
from interp_jax.runtime.errors import UserError


def run_main(main: Callable[..., object], argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the flags, calls `main()` (or `main(argv)`, as absl does), and leaves the process.

    Exit codes: 0 done; 2 bad input (a `UserError`, printed in one sentence); 1 everything else
    (flags that do not parse, an interrupt, a full disk, a fault of ours with its traceback).
    """

    def guarded(arguments: Sequence[str]) -> int:
        # The library's own log lines are the record of a run; absl shows warnings only.
        logging.getLogger("interp_jax").setLevel(logging.INFO)
        # That JAX found no TPU on a laptop is nobody's concern.
        logging.getLogger("jax").setLevel(logging.WARNING)
        # Orbax tells every file it renames.
        logging.getLogger("absl").setLevel(logging.WARNING)
        try:
            if len(arguments) > 1:
                raise UserError(
                    found=f"the argument {arguments[1]!r}",
                    expected="flags only",
                    do="write --flag=value; --help lists the flags",
                )
            main(arguments) if inspect.signature(main).parameters else main()
        except UserError as error:
            return _leave(str(error), 2)
        except KeyboardInterrupt:
            return _leave(
                "Interrupted; nothing finished is lost: run the same command again to go on.", 1
            )
        except OSError as error:
            if error.errno not in FULL:
                raise
            where = f" while writing {error.filename}" if error.filename else ""
            return _leave(
                f"No space left on the disk{where}; make room and run the same command again.", 1
            )
        return 0

    app.run(guarded, argv=None if argv is None else list(argv))
    raise AssertionError("app.run leaves the process")


def _leave(sentence: str, code: int) -> int:
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    return code
