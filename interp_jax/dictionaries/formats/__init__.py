"""Dictionaries of other libraries, in and out. One module per layout, each a pair of functions.

| layout | module | what it holds |
|---|---|---|
| `crosscoder` | crosscoder | crosscoder releases: safetensors and config.json |
| `kissane` | kissane | the open-source crosscoder of Kissane et al. |
| `dictionary_learning` | dictionary_learning | its SAE classes, as safetensors or npz |
| `saelens` | saelens | sae_weights.safetensors and cfg.json |
| `gemma_scope` | gemma_scope | params.npz, and the safetensors of the second release |
| `saex` | saex | its safetensors |
| `native` | native | ours: everything, counts included |

A reader returns `Loaded`: the dictionary, and beside it what the file says that has no place in
one. Giving that to the writer makes a round trip exact. What differs in convention (input
centring, row norms, transposes, input scaling) becomes config or data of the dictionary, and what
is not in the file has to be said by the caller.
"""
