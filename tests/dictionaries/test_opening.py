"""A dictionary from a path: each layout is told by its files, or has to be named."""

import numpy as np
import pytest

from interp_jax.dictionaries.build import crosscoder, sae
from interp_jax.dictionaries.formats.crosscoder import write_crosscoder
from interp_jax.dictionaries.formats.dictionary_learning import write_dictionary_learning
from interp_jax.dictionaries.formats.files import Loaded
from interp_jax.dictionaries.formats.gemma_scope import write_gemma_scope
from interp_jax.dictionaries.formats.kissane import write_kissane
from interp_jax.dictionaries.formats.native import write_native
from interp_jax.dictionaries.formats.opening import read_dictionary
from interp_jax.dictionaries.formats.saelens import write_saelens
from interp_jax.dictionaries.formats.saex import write_saex
from interp_jax.runtime.errors import UserError


def relu_sae(key, **more):
    return sae(6, 8, key, activation="relu", centred=True, **more)


# layout, what is written, the writer, the place it is given, places it is read from
LAYOUTS = [
    ("native", lambda key: sae(6, 8, key, k=2), write_native, ".", [".", "dictionary.json"]),
    ("crosscoder", lambda key: crosscoder(2, 6, 8, key, k=2), write_crosscoder, ".",
     [".", "model.safetensors"]),
    ("kissane", lambda key: crosscoder(2, 6, 8, key, activation="relu"), write_kissane, ".",
     [".", "cc_weights.safetensors"]),
    ("saelens", relu_sae, write_saelens, ".",
     [".", "sae_weights.safetensors"]),
    ("gemma_scope", lambda key: sae(6, 8, key, activation="jumprelu"), write_gemma_scope,
     "params.npz", [".", "params.npz"]),
    ("saex", relu_sae, write_saex, "mine.safetensors", ["mine.safetensors"]),
    ("dictionary_learning", relu_sae, write_dictionary_learning, "ae.safetensors",
     [".", "ae.safetensors"]),
]  # fmt: skip


@pytest.mark.parametrize("layout, make, write, place, paths", LAYOUTS, ids=lambda p: str(p)[:12])
def test_a_layout_is_told_by_its_files(tmp_path, fresh_key, layout, make, write, place, paths):
    dictionary = make(fresh_key())
    write(tmp_path / place, Loaded(dictionary))
    for path in paths:
        named = read_dictionary(tmp_path / path, layout)
        found = [named]
        if layout != "saex":  # its file has no name of its own
            found.append(read_dictionary(tmp_path / path))
        for loaded in found:
            got = loaded.dictionary.array("decoder")
            np.testing.assert_allclose(got, dictionary.array("decoder"), rtol=1e-6)


def test_what_cannot_be_read_is_refused(tmp_path, fresh_key):
    with pytest.raises(UserError, match="no dictionary known by its files.*dictionary.json"):
        read_dictionary(tmp_path)
    with pytest.raises(UserError, match="layout 'other'"):
        read_dictionary(tmp_path, "other")
    write_native(tmp_path, Loaded(relu_sae(fresh_key())))
    with pytest.raises(UserError, match="scales for the layout native"):
        read_dictionary(tmp_path, scales=(1.0,))
    with pytest.raises(UserError, match="2 scales; expected one for the layout saelens"):
        read_dictionary(tmp_path, "saelens", scales=(1.0, 2.0))
