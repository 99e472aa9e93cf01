"""Token ids replaced in what a base model reads: the same bits as tokens edited by hand."""

from __future__ import annotations

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from interp_jax.dictionaries import run as training
from interp_jax.dictionaries.cache import ActivationCache
from interp_jax.dictionaries.cache_writing import write_cache
from interp_jax.dictionaries.fit_config import FitConfig
from interp_jax.dictionaries.formats.native import read_native
from interp_jax.dictionaries.harvest import Harvest, harvest
from interp_jax.dictionaries.replaced_tokens import (
    NAMED,
    parse_replacements,
    replaced,
    require_replaceable,
    trained_otherwise,
)
from interp_jax.dictionaries.row_source import HarvestSource, harvest_rows
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.models.safetensors_write import save_hf
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.flags import define_from_dataclass, read_into_dataclass
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.dictionaries.test_train_script import tokenizer
from tests.dictionaries.token_streams import RandomTokens

CONFIG, T = tiny_config("llama"), 8
PAIRS = ((1, 60), (60, 7))  # the first token of every row, and a new id that is an old one too
WHAT = Harvest(("resid_post[0,1]",), exclude_tokens=(60,))
REPLACING = Harvest(WHAT.sites, exclude_tokens=(60,), replace_tokens=PAIRS)


@functools.cache
def network(seed: int, layout="unrolled"):
    return build_decoder(CONFIG, random_parameters(CONFIG, seed), layout)


def read(rows: int = 4):
    """Rows in which both old ids stand."""
    found = RandomTokens(CONFIG.vocab_size, T).next(rows)
    found.tokens[:, 2] = 60  # every row has at least four
    return found


def by_hand(tokens: np.ndarray) -> np.ndarray:
    return np.where(tokens == 1, 60, np.where(tokens == 60, 7, tokens))


def test_a_batch_is_edited_as_by_hand_and_the_rest_of_it_stays():
    one = read()
    batch = Batch.make(np.flip(one.tokens, 1), np.flip(one.valid, 1), roles=one.roles)
    other = replaced(batch, PAIRS)
    np.testing.assert_array_equal(other.tokens, by_hand(np.asarray(batch.tokens)))
    assert (np.asarray(other.tokens) != np.asarray(batch.tokens)).sum() >= 8
    for name in ("valid", "positions", "roles", "lengths", "order"):
        assert getattr(other, name) is getattr(batch, name)
    assert replaced(batch, ()) is batch


@pytest.mark.parametrize("layout", ["unrolled", "scanned"])
@pytest.mark.parametrize("place", [0, 1])
def test_activations_are_those_of_tokens_edited_by_hand(layout, place):
    one, nets = read(), (network(0, layout), network(1, layout))
    real = Batch.make(one.tokens, one.valid)
    edited = Batch.make(by_hand(one.tokens), one.valid)
    what = Harvest(WHAT.sites, replace_tokens=PAIRS, replaced_network=place)
    split = lambda x: np.asarray(x).reshape(-1, 2, 2, CONFIG.width)  # rows, networks, layers
    got = split(harvest_rows(nets, real, what)["x"])
    plain, other = (split(harvest_rows(nets, b, Harvest(WHAT.sites))["x"]) for b in (real, edited))
    np.testing.assert_array_equal(got[:, place], other[:, place])
    np.testing.assert_array_equal(got[:, 1 - place], plain[:, 1 - place])
    assert (got[:, place] != plain[:, place]).any()


def test_no_pairs_are_no_operation(compile_counter):
    one, nets = read(), (network(0), network(1))
    batch = Batch.make(one.tokens, one.valid)
    harvest_rows(nets, batch, WHAT)
    with compile_counter() as counter:
        harvest_rows(nets, batch, Harvest(WHAT.sites, exclude_tokens=(60,), replace_tokens=()))
    assert counter.count == 0


def test_a_source_keeps_and_tells_the_real_tokens():
    nets = (network(0), network(1))
    plain, other = (HarvestSource(nets, RandomTokens(101, T), w, 4, T) for w in (WHAT, REPLACING))
    (a, tokens), (b, told) = plain.next_with_tokens(), other.next_with_tokens()
    np.testing.assert_array_equal(a.keep, b.keep)  # 60 is left out, what was read as 60 is not
    np.testing.assert_array_equal(tokens.tokens, told.tokens)
    first = np.arange(4) * T
    assert b.keep[first].all() and (told.tokens[:, 0] == 1).all()


@pytest.mark.parametrize(
    "texts, want",
    [
        ((), ()),
        (("5:6", "7:8"), ((5, 6), (7, 8))),
        (("llama3",), ((128006, 1432), (128009, 827), (128007, 827))),
        (("llama3", "1:2"), (*NAMED["llama3"], (1, 2))),
    ],
)
def test_pairs_of_a_config(texts, want):
    assert parse_replacements(texts) == want


@pytest.mark.parametrize(
    "texts, said",
    [
        (("5",), "--replace_tokens '5'; expected OLD:NEW, two token ids, or llama3"),
        (("5:",), "'5:'"),
        (("a:5",), "'a:5'"),
        (("-1:5",), "'-1:5'"),
        (("1:2:3",), "'1:2:3'"),
        (("²:3",), "'²:3'"),
        (("llama2",), "'llama2'"),
        (("5:6", "5:7"), "token 5 replaced twice; expected each old id once"),
        (("llama3", "128009:827"), "token 128009 replaced twice"),
    ],
)
def test_pairs_that_are_refused(texts, said):
    with pytest.raises(UserError, match=said):
        parse_replacements(texts)


def test_ids_and_networks_that_are_not_there():
    for pairs in (((101, 5),), ((5, 101),)):
        with pytest.raises(UserError, match="replaced by .*; expected ids from 0 to 100"):
            require_replaceable(pairs, 101)
        what = Harvest(WHAT.sites, replace_tokens=pairs)
        with pytest.raises(UserError, match="expected ids from 0 to 100"):
            HarvestSource((network(0), network(1)), RandomTokens(101, T), what, 4, T)
    with pytest.raises(UserError, match="token 5 replaced twice"):
        require_replaceable(((5, 6), (5, 6)), 101)
    what = Harvest(WHAT.sites, replace_tokens=PAIRS, replaced_network=1)
    with pytest.raises(UserError, match="network 1 of 1; expected a network from 0 to 0"):
        harvest((network(0),), Batch.make(jnp.ones((1, 2), jnp.int32)), what)


def test_a_cache_has_the_real_tokens_and_says_what_was_read(tmp_path):
    def made(store, what, on_chunk=None):
        source = HarvestSource(
            (network(0), network(1)), RandomTokens(101, T, 24), what, 4, T
        )
        folders = [tmp_path / store / name / "web" / "train" for name in ("base", "chat")]
        done = write_cache(source, folders, 10**6, shard_size=30, on_chunk=on_chunk)
        return [ActivationCache(folder) for folder in done]

    plain, other = made("plain", WHAT), made("other", REPLACING)
    assert [c.replace_tokens for c in plain] == [(), (), (), ()]
    assert [c.replace_tokens for c in other] == [PAIRS, PAIRS, (), ()]
    assert "replace_tokens" not in plain[0].config
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
    same = [(a.read(0, 90) == b.read(0, 90)).all() for a, b in zip(plain, other, strict=True)]
    assert same == [False, False, True, True]

    class Stop(Exception):
        pass

    def stop(rows):
        if rows > 60:
            raise Stop

    with pytest.raises(Stop):
        made("begun", WHAT, stop)
    with pytest.raises(UserError, match="a cache begun in"):
        made("begun", REPLACING)
    folders = tuple(str(c.folder) for c in other)
    config = FitConfig(kind="crosscoder", cache=folders, latents=16)
    assert training.open_source(config).replaced == PAIRS
    mixed = FitConfig(kind="crosscoder", cache=(folders[0], str(plain[0].folder)), latents=16)
    assert training.open_source(mixed).replaced == PAIRS
    (tmp_path / "third").mkdir()
    third = tmp_path / "third" / "layer_0_out"
    other[0].folder.rename(third)
    told = json.loads((third / "config.json").read_text())
    (third / "config.json").write_text(json.dumps(told | {"replace_tokens": [[3, 4]]}))
    with pytest.raises(UserError, match="other replaced tokens in .*third"):
        training.open_source(
            FitConfig(kind="crosscoder", cache=(str(third), folders[1]), latents=16)
        )


def fit_config(**over) -> FitConfig:
    fields = dict(
        kind="crosscoder", model="base", other_model="chat", layers=(1,), latents=32, k=3,
        ring_rows=128, batch_size=16, context=T, rows_at_once=4, steps=6, lr=1e-2, warm_up=2,
        threshold_start=2, eval_rows=0, checkpoint_every=0, replace_tokens=("1:60", "60:7"),
    )  # fmt: skip
    return FitConfig(**(fields | over))


def test_a_training_run_records_them_and_refuses_others(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "chosen_mesh", lambda config: None)  # one device
    for seed, name in enumerate(("base", "chat")):
        save_hf(tmp_path / name, CONFIG, random_parameters(CONFIG, seed), tokenizer())
    named = dict(model=str(tmp_path / "base"), other_model=str(tmp_path / "chat"))
    stream = lambda config, model: RandomTokens(CONFIG.vocab_size, T)
    trained = {}
    for name, pairs in (("with", ("1:60", "60:7")), ("without", ())):
        config = fit_config(workdir=str(tmp_path / name), replace_tokens=pairs, **named)
        (folder,) = training.run(config, stream).folders
        trained[name] = read_native(folder)
    a, b = (one.dictionary.array("decoder_bias") for one in trained.values())
    assert (a[0] != b[0]).any()
    made = [one.json["dictionary.json"]["provenance"] for one in trained.values()]
    assert [one["replace_tokens"] for one in made] == [[[1, 60], [60, 7]], []]
    assert made[0]["config"]["replace_tokens"] == ["1:60", "60:7"]
    assert trained_otherwise(made[0], PAIRS[::-1]) is None
    assert trained_otherwise({}, PAIRS) is None
    assert "with replaced tokens 1:60, 60:7, and this run replaces none" in (
        trained_otherwise(made[0], ())
    )
    with pytest.raises(UserError, match=r'replace_tokens: \["1:60", "60:7"\] there, \[\] now'):
        training.run(fit_config(workdir=str(tmp_path / "with"), replace_tokens=(), **named), stream)
    with pytest.raises(UserError, match="token 128006 replaced by 1432"):
        wrong = fit_config(workdir=str(tmp_path / "x"), replace_tokens=("llama3",), **named)
        training.run(wrong, stream)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "over, said",
    [
        (dict(kind="sae", other_model=None), "with one model.*give --other_model"),
        (dict(other_model=None, layers=(0, 1)), "with one model"),
        (dict(cache=("a", "b")), "with --cache.*store the activations with it"),
    ],
)
def test_without_a_second_model_there_is_nothing_to_replace_for(over, said):
    with pytest.raises(UserError, match=f"--replace_tokens {said}"):
        fit_config(**over)


def test_the_flag():
    values = flags.FlagValues()
    define_from_dataclass(FitConfig, values)
    values(["script", "--kind=crosscoder", "--other_model=chat", "--replace_tokens=llama3, 1:2"])
    config = read_into_dataclass(FitConfig, values)
    assert config.replace_tokens == ("llama3", "1:2")
    assert config.harvest(4).replace_tokens == (*NAMED["llama3"], (1, 2))
    assert FitConfig().replace_tokens == ()
