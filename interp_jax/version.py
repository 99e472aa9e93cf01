"""The version of the library, in the one place that everything else reads."""

__version__ = "0.1.0.dev0"
