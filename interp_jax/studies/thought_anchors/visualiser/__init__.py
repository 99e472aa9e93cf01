"""The visualiser: a folder of traces becomes one static site that opens from disk."""
