"""Dictionaries: sparse autoencoders, transcoders and crosscoders, as Flax modules.

`dictionary` is the module, `build` makes one, `losses` and `training` train it, `metrics` and
`delta` measure it, `formats` reads and writes what other libraries save.
"""
