"""The process: devices, keys, the workdir and its journal, metrics, checkpoints, flags."""
