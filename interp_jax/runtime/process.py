"""Which process this is, among the many that may run the same script."""

from __future__ import annotations

import jax


def is_writer() -> bool:
    """True in the one process that writes files, bars and log lines (process 0).

    A process that has not joined others is alone, so this does not wake the devices
    before `interp_jax.runtime.devices.setup` had its turn.
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0
