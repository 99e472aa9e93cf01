"""Activations on disk: written and read, cut off and gone on with, paired, trained from."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interp_jax.dictionaries.cache import ActivationCache, common_rows
from interp_jax.dictionaries.cache_source import CacheSource
from interp_jax.dictionaries.cache_writing import CacheWriter, write_cache
from interp_jax.dictionaries.fit import fit
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.formats.files import read_tensors
from interp_jax.dictionaries.harvest import Harvest
from interp_jax.dictionaries.row_source import HarvestSource
from interp_jax.models.decoder import build_decoder
from interp_jax.runtime.errors import UserError
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.dictionaries.token_streams import RandomTokens

CONFIG, T = tiny_config("llama"), 8


@functools.cache
def network(seed: int):
    return build_decoder(CONFIG, random_parameters(CONFIG, seed))


def source(rows: int | None = 24, dtype="float32") -> HarvestSource:
    what = Harvest(("resid_post[0,1]",), skip_first=1, dtype=dtype)
    return HarvestSource((network(0), network(1)), RandomTokens(101, T, rows), what, 4, T)


def folders(store):
    return [store / "base" / "web" / "train", store / "chat" / "web" / "train"]


def kept(of: HarvestSource) -> tuple[np.ndarray, np.ndarray]:
    """All rows [n, 4, D] and their tokens."""
    rows, tokens = [], []
    while True:
        try:
            chunk, read = of.next_with_tokens()
        except StopIteration:
            return np.concatenate(rows), np.concatenate(tokens)
        rows.append(np.asarray(chunk.rows["x"])[chunk.keep])
        tokens.append(read.tokens.reshape(-1)[chunk.keep])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_read(tmp_path, dtype):
    done = write_cache(source(dtype=dtype), folders(tmp_path), 10**6, shard_size=30)
    assert [str(f.relative_to(tmp_path)) for f in done] == [
        f"{model}/web/train/layer_{layer}_out" for model in ("base", "chat") for layer in (0, 1)
    ]
    want, tokens = kept(source(dtype=dtype))
    for place, folder in enumerate(done):
        cache = ActivationCache(folder)
        assert cache.dtype.name == dtype and len(cache) == len(want) and cache.width == 32
        got = cache.read(0, len(cache))
        np.testing.assert_array_equal(got, want[:, place])
        np.testing.assert_array_equal(cache.read(29, 55), want[29:55, place])
        np.testing.assert_array_equal(cache.tokens, tokens)
        said = read_tensors(folder / "statistics.safetensors")
        np.testing.assert_allclose(said["mean"], got.astype(np.float64).mean(0), atol=1e-12)
        np.testing.assert_allclose(said["std"], got.astype(np.float64).std(0, ddof=1), rtol=1e-9)
    ranges = read_tensors(done[0].parent / "sequence_ranges.safetensors")["sequence_ranges"]
    assert ranges[0] == 0 and ranges[-1] == len(want) and len(ranges) == 25
    assert set(tokens[ranges[:-1]]) & {1} == set()  # the first token of each is left out
    assert common_rows([ActivationCache(f) for f in done]) == len(want)


def test_the_layout_is_the_references(tmp_path):
    """Raw rows; bfloat16 as bit patterns; shape and dtype in a JSON file; names of the config."""
    (folder, *_) = write_cache(source(dtype="bfloat16"), folders(tmp_path), 10**6, shard_size=30)
    meta = json.loads((folder / "shard_1.meta").read_text())
    raw = np.fromfile(folder / "shard_1.memmap", np.int16).reshape(meta["shape"])
    assert meta == {"shape": list(raw.shape), "dtype": "bfloat16"}
    first = json.loads((folder / "shard_0.meta").read_text())["shape"][0]
    assert 30 < first <= 30 + 4 * T  # closed once it has more
    bits = np.asarray(kept(source(dtype="bfloat16"))[0][first : first + len(raw), 0])
    np.testing.assert_array_equal(raw, bits.view(np.int16))
    config = json.loads((folder / "config.json").read_text())
    assert {
        "batch_size", "context_len", "shard_size", "d_model", "shuffle_shards", "io", "total_size",
        "shard_count", "store_tokens", "store_sequence_ranges",
    } == set(config)  # fmt: skip
    assert config["total_size"] == len(ActivationCache(folder))


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_cut_off_and_gone_on_with_it_is_unbroken(tmp_path, after):
    whole = write_cache(source(), folders(tmp_path / "a"), 10**6, shard_size=30)
    count = []

    def stop(rows):
        count.append(rows)
        if len(count) == after:
            raise Stop

    with pytest.raises(Stop):
        write_cache(source(), folders(tmp_path / "b"), 10**6, shard_size=30, on_chunk=stop)
    with pytest.raises(UserError, match="no config.json"):
        ActivationCache(tmp_path / "b" / "base" / "web" / "train" / "layer_0_out")
    again = write_cache(source(), folders(tmp_path / "b"), 10**6, shard_size=30)
    for one, two in zip(whole, again, strict=True):
        files = sorted(p.name for p in one.iterdir())
        assert files == sorted(p.name for p in two.iterdir())
        for name in files:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
        for name in ("tokens.safetensors", "sequence_ranges.safetensors"):
            assert (one.parent / name).read_bytes() == (two.parent / name).read_bytes()
        assert sorted(p.name for p in two.parent.iterdir() if p.is_file()) == [
            "sequence_ranges.safetensors", "tokens.safetensors",
        ]  # fmt: skip


def test_a_folder_ahead_waits_for_the_other(tmp_path):
    """A kill between the two folders' shards: one has a shard that the other lacks."""
    whole = write_cache(source(), folders(tmp_path / "a"), 10**6, shard_size=30)
    closed = CacheWriter._close_shard
    calls = []

    def second_fails(self, cursor):
        calls.append(self)
        if len(calls) == 4:
            raise Stop
        closed(self, cursor)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(CacheWriter, "_close_shard", second_fails)
        write_cache(source(), folders(tmp_path / "b"), 10**6, shard_size=30)
    again = write_cache(source(), folders(tmp_path / "b"), 10**6, shard_size=30)
    for one, two in zip(whole, again, strict=True):
        a, b = ActivationCache(one), ActivationCache(two)
        np.testing.assert_array_equal(a.read(0, len(a)), b.read(0, len(b)))
        np.testing.assert_array_equal(a.tokens, b.tokens)


def caches(store) -> list[ActivationCache]:
    """Base and chat at layer 1."""
    done = write_cache(source(), folders(store), 10**6, shard_size=30)
    return [ActivationCache(done[1]), ActivationCache(done[3])]


def test_rows_of_a_cache_are_those_of_the_networks(tmp_path):
    both = caches(tmp_path)
    rows = kept(source())[0][:, [1, 3]]
    read = CacheSource([both], 16)
    assert read.shapes["x"] == jax.ShapeDtypeStruct((2, 32), jnp.float32)
    got, marks = [], []
    while True:
        marks.append(read.cursor())
        try:
            chunk = read.next()
        except StopIteration:
            break
        got.append(np.asarray(chunk.rows["x"])[chunk.keep])
    np.testing.assert_array_equal(np.concatenate(got), rows)
    read.seek(json.loads(json.dumps(marks[2])))
    np.testing.assert_array_equal(read.next().rows["x"], rows[32:48])


def test_two_texts_are_interleaved(tmp_path):
    web = caches(tmp_path)
    chunk = CacheSource([web, web[::-1]], 8).next()
    np.testing.assert_array_equal(chunk.rows["x"][::2, 0], web[0].read(0, 4))
    np.testing.assert_array_equal(chunk.rows["x"][1::2, 0], web[1].read(0, 4))
    of = CacheSource([web[:1]], 8, targets=[web[1:]], dtype="bfloat16")
    assert {n: (s.shape, s.dtype.name) for n, s in of.shapes.items()} == {
        "x": ((1, 32), "bfloat16"), "target": ((1, 32), "bfloat16")
    }  # fmt: skip


def test_a_dictionary_trains_from_a_cache_as_from_the_networks(tmp_path):
    """With the same chunks in the ring, the same bits."""
    c = FitConfig(
        kind="crosscoder", layers=(1, 2), latents=64, k=4, ring_rows=64, batch_size=8, context=8,
        rows_at_once=4, steps=8, lr=1e-2, warm_up=2, threshold_start=2, eval_rows=0,
    )  # fmt: skip
    what = Harvest(("resid_post[1]",))
    both = (network(0), network(1))

    class Whole(RandomTokens):
        def next(self, batch):
            read = super().next(batch)
            return read._replace(valid=np.ones_like(read.valid))

    done = write_cache(HarvestSource(both, Whole(101, T, 64), what, 4, T), folders(tmp_path), 512)
    live = fit(c, HarvestSource(both, Whole(101, T), what, 4, T))
    disk = fit(c, CacheSource([[ActivationCache(f) for f in done]], 4 * T))
    for name, array in live.dictionaries[0].arrays().items():
        np.testing.assert_array_equal(array, disk.dictionaries[0].array(name), err_msg=name)


def test_pairs_that_do_not_belong_together(tmp_path):
    one, two = caches(tmp_path)
    shifted = source()
    shifted.next()
    (third, *_) = write_cache(shifted, folders(tmp_path / "c"), 10**6)
    with pytest.raises(UserError, match="token [0-9]+ at row 0"):
        common_rows([one, ActivationCache(third)])
    tokens = one.folder.parent / "tokens.safetensors"
    tokens.rename(tokens.with_name("away"))
    (one.folder.parent / "tokens.pt").write_bytes(b"never opened")
    fresh = [ActivationCache(one.folder), ActivationCache(two.folder)]
    with pytest.raises(UserError, match="cannot be compared.*weights_only=True"):
        common_rows(fresh)
    (two.folder.parent / "tokens.safetensors").unlink()
    (two.folder.parent / "tokens.pt").write_bytes(b"never opened")
    assert common_rows([ActivationCache(c.folder) for c in fresh]) == len(one)
    (two.folder.parent / "tokens.pt").write_bytes(b"other bytes")
    with pytest.raises(UserError, match="cannot be compared"):
        common_rows([ActivationCache(c.folder) for c in fresh])


def test_folders_that_are_refused(tmp_path):
    one, _ = caches(tmp_path)
    with pytest.raises(UserError, match="a finished cache"):
        write_cache(source(), folders(tmp_path), 10)
    with pytest.raises(UserError, match="1 folders for 2 networks"):
        write_cache(source(), folders(tmp_path)[:1], 10)
    shard, config = one.folder / "shard_0.memmap", one.folder / "config.json"
    whole, said = shard.read_bytes(), json.loads(config.read_text())
    shard.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="shard_0.memmap of [0-9]+ bytes"):
        ActivationCache(one.folder)
    shard.write_bytes(whole)
    for change, message in (
        ({"shuffle_shards": True}, "shuffle_shards"),
        ({"total_size": 5}, "expected total_size 5 rows"),
        ({"d_model": 31}, r"shard_0.memmap of shape \([0-9]+, 32\)"),
    ):
        config.write_text(json.dumps(said | change))
        with pytest.raises(UserError, match=message):
            ActivationCache(one.folder)
    begun = tmp_path / "begun"
    count = []
    with pytest.raises(Stop):
        write_cache(source(), folders(begun), 10**6, shard_size=30,
                    on_chunk=lambda n: count.append(n) or len(count) > 2 and raise_())  # fmt: skip
    with pytest.raises(UserError, match="a cache begun in"):
        write_cache(source(), folders(begun), 10**6, shard_size=31)


def raise_():
    raise Stop
