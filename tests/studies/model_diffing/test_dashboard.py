"""The dashboard's numbers, held to plain computations; its files; what is refused."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from interp_jax.dictionaries.build import sae
from interp_jax.dictionaries.delta import delta
from interp_jax.dictionaries.dictionary import Dictionary
from interp_jax.dictionaries.examples_file import load_examples
from interp_jax.dictionaries.formats.files import Loaded
from interp_jax.dictionaries.formats.native import write_native
from interp_jax.generation.language_model import LanguageModel
from interp_jax.interventions.reads import Read
from interp_jax.models.batch import Batch
from interp_jax.models.decoder import build_decoder
from interp_jax.models.pretrained import Origin
from interp_jax.models.sites import Site
from interp_jax.models.tokenizer import SpecialIds, Tokenizer
from interp_jax.runtime import keys
from interp_jax.runtime.errors import UserError
from interp_jax.studies.model_diffing.dashboard import directions
from interp_jax.studies.model_diffing.dashboard.blocks import block_texts, rounded, used_tokens
from interp_jax.studies.model_diffing.dashboard.columns import columns_of
from interp_jax.studies.model_diffing.dashboard.config import DashboardConfig
from interp_jax.studies.model_diffing.dashboard.directions import logit_effects, nearest_latents
from interp_jax.studies.model_diffing.dashboard.run import run
from interp_jax.studies.model_diffing.dashboard.site import build_dashboard
from interp_jax.studies.model_diffing.dashboard.words import token_texts
from interp_jax.testing.tiny import random_parameters, tiny_config
from tests.studies.browsing import HOSTILE
from tests.studies.model_diffing.small_pair import crosscoder, pair
from tests.studies.model_diffing.synthetic_dashboard import (
    WORDS,
    F,
    make_dictionary,
    make_examples,
    make_network,
    make_ratios,
    make_tokenizer,
)

EXAMPLES = make_examples()


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # a head of its own; tied, with an offset
def test_logit_effects_are_the_direct_path(family, monkeypatch):
    monkeypatch.setattr(directions, "BLOCK", 4)  # several blocks, the last one not full
    config = tiny_config(family)
    params = random_parameters(config, seed=1)
    rows = np.random.default_rng(0).normal(size=(10, config.width)).astype(np.float32)
    rows[2] = 0
    found = logit_effects(build_decoder(config, params), rows, k=3)
    head = np.asarray(params.get("head.weight", params["embed.table"].T), np.float64)
    gain = np.asarray(params["final_norm.gain"], np.float64) + config.norm_offset
    for latent, row in enumerate(rows):
        if latent == 2:
            assert np.isnan(found.raised_by[2]).all() and np.isnan(found.lowered_by[2]).all()
            continue
        effects = (row / np.linalg.norm(row) * gain) @ head
        order = np.argsort(-effects)
        assert found.raised[latent].tolist() == order[:3].tolist()
        assert found.lowered[latent].tolist() == order[::-1][:3].tolist()
        np.testing.assert_allclose(found.raised_by[latent], effects[order[:3]], rtol=2e-4)
        np.testing.assert_allclose(found.lowered_by[latent], effects[order[::-1][:3]], rtol=2e-4)


def test_logit_effects_follow_the_network():
    """Divided by the stream's RMS they are the change of its logits, up to what the norm adds."""
    network = make_network()
    batch = Batch.make(jnp.asarray([[5, 9, 4, 7]], jnp.int32))
    read = jax.jit(lambda network, batch: Read("x", Site("resid_post", 2))(network)(batch)[1]["x"])
    stream = np.asarray(read(network, batch)[0])
    row = np.random.default_rng(3).normal(size=32).astype(np.float32)
    row -= row @ np.asarray(stream[0, -1]) / (np.linalg.norm(stream[0, -1]) ** 2) * stream[0, -1]
    row /= np.linalg.norm(row)
    # Across the stream, so that a small step leaves its size as it is.
    step = 1e-2
    before, after = (network.unembed(jnp.asarray(s)) for s in (stream, stream + step * row))
    rms = float(jnp.sqrt(jnp.mean(jnp.square(stream[0, -1])) + network.config.norm_eps))
    change = np.asarray((after - before)[0, -1]) * rms / step
    found = logit_effects(network, row[None], k=101)
    np.testing.assert_allclose(found.raised_by[0], change[found.raised[0]], atol=5e-3)


def test_nearest_latents(monkeypatch):
    monkeypatch.setattr(directions, "BLOCK", 8)
    rows = np.random.default_rng(0).normal(size=(21, 6)).astype(np.float32)
    rows[4] = 0
    rows[9] = 3 * rows[2] + 0.01
    index, cosine = nearest_latents(rows, 5)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    every = unit @ unit.T
    np.fill_diagonal(every, -2)
    every[:, 4] = -2
    for latent in range(21):
        if latent == 4:
            assert (index[4] == -1).all() and np.isnan(cosine[4]).all()
            continue
        order = np.argsort(-every[latent])[:5]
        assert index[latent].tolist() == order.tolist()
        np.testing.assert_allclose(cosine[latent], every[latent][order], rtol=1e-4, atol=1e-6)
    assert index[2, 0] == 9 and cosine[2, 0] == pytest.approx(1, abs=1e-3)
    # More neighbours than there are others: the row of zeros is none.
    assert (nearest_latents(rows, 99)[0] == -1).sum() == 20 + 20
    assert nearest_latents(rows[:1])[0].shape == (1, 0)
    some = nearest_latents(rows, 5, of=[20, 4, 9])
    for part, whole in zip(some, (index, cosine), strict=True):
        np.testing.assert_array_equal(part, whole[[20, 4, 9]])


def test_refusals_of_directions():
    with pytest.raises(UserError, match=r"decoder rows of shape \(3, 8\); expected \[F, 32\]"):
        logit_effects(make_network(), np.ones((3, 8)))
    with pytest.raises(UserError, match="k = 0"):
        logit_effects(make_network(), np.ones((3, 32)), k=0)


def test_rounding_keeps_significant_digits():
    values = [3.14159, 0.000123456, -98765.4, 0.0, np.nan, np.inf, 1e30, 2.0]
    assert repr(rounded(np.array(values)).tolist()[:4]) == "[3.142, 0.0001235, -98770.0, 0.0]"
    assert np.isnan(rounded(np.array(values))[4:6]).all()
    draw = np.random.default_rng(0)
    many = draw.normal(size=2000) * 10.0 ** draw.integers(-12, 12, 2000)
    assert rounded(many).tolist() == [float(f"{value:.3e}") for value in many]


def test_blocks_hold_what_was_collected():
    used = used_tokens(EXAMPLES, None)
    texts = list(block_texts(EXAMPLES, used, None, None))
    assert len(texts) == 3
    latents = []
    for number, text in enumerate(texts):
        assert text.startswith(f"report.block({number},[[") and text.endswith(");\n")
        latents += json.loads(text[len(f"report.block({number},") : -3])
    assert len(latents) == F
    for latent, (bins, top, bands, raised, lowered, near) in enumerate(latents):
        assert (raised, lowered, near) == (None, None, [])
        assert sum(bins[1:]) == EXAMPLES.active[latent]
        if not EXAMPLES.active[latent]:
            assert bins == top == bands == []
            continue
        np.testing.assert_array_equal(
            bins[1:], EXAMPLES.histogram[latent, bins[0] : bins[0] + len(bins) - 1]
        )
        groups = [(EXAMPLES.top, (latent,), top)]
        assert len(bands) == 5
        for band, (low, high, listed) in enumerate(bands):
            assert low == pytest.approx(EXAMPLES.band_low[latent, band], rel=1e-3)
            assert high == pytest.approx(EXAMPLES.band_high[latent, band], rel=1e-3)
            groups.append((EXAMPLES.bands, (latent, band), listed))
        for shown, place, listed in groups:
            assert len(listed) == (shown.value[place] > 0).sum()
            for n, (peak, words, pairs) in enumerate(listed):
                tokens = shown.tokens[place][n]
                assert used[words].tolist() == tokens[tokens >= 0].tolist()
                values = dict(zip(pairs[::2], pairs[1::2], strict=True))
                assert values[peak] == pytest.approx(shown.value[place][n], rel=1e-3)
                want = shown.activations[place][n][tokens >= 0]
                got = [values.get(at, 0.0) for at in range(len(words))]
                np.testing.assert_allclose(got, want, rtol=1e-3)


def test_columns_of_two_models():
    dictionary = make_dictionary()
    table = {c.key: c for c in columns_of(dictionary, EXAMPLES, ("b", "c"), make_ratios())}
    assert list(table) == ["class", "delta", "density", "max", "mean", "norm0", "norm1", "nu_eps",
                           "nu_r"]  # fmt: skip
    share = np.asarray(delta(dictionary.decoder_norms()))
    np.testing.assert_array_equal(table["delta"].values, share)
    names = np.asarray(table["class"].classes)[table["class"].values]
    assert set(names[share > 0.9]) == {"c only"} and set(names[share < 0.1]) == {"b only"}
    assert set(names[np.abs(share - 0.5) < 0.1]) == {"shared"} and names[3] == "other"
    np.testing.assert_array_equal(table["density"].values, EXAMPLES.density)
    assert np.isnan(table["max"].values[7])


@pytest.mark.parametrize(
    "more, found",
    [
        ({"outputs": ("one",)}, "1 names for outputs; expected 2"),
        ({"ratios": {"nu": np.ones(3)}}, r"nu of shape \(3,\)"),
    ],
)
def test_refusals_of_columns(more, found):
    with pytest.raises(UserError, match=found):
        columns_of(make_dictionary(), EXAMPLES, **more)
    with pytest.raises(UserError, match="examples of 150 latents; expected 20"):
        columns_of(make_dictionary(latents=20), EXAMPLES)


def test_tokens_as_they_stand_in_a_text():
    tokenizer = make_tokenizer()
    assert token_texts(tokenizer, range(len(WORDS))) == WORDS
    # A decoder that takes the first space away.
    words = {"a": 0, "\u2581b": 1, "c": 2}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    backend.decoder = tokenizers.decoders.Metaspace()
    assert token_texts(Tokenizer(backend, (), SpecialIds()), [0, 1, 2]) == ["a", " b", "c"]


def test_a_folder_is_whole_at_every_moment(tmp_path):
    out, dictionary, tokenizer = tmp_path / "new" / "page", make_dictionary(), make_tokenizer()
    index = build_dashboard(out, dictionary, EXAMPLES, tokenizer, provenance={"model": HOSTILE})
    text = index.read_text()
    assert HOSTILE not in text and text.count("<script>window") == 0
    (place,) = (out / "data").iterdir()
    assert HOSTILE not in (place / "words.js").read_text()
    # The same again: the same files. Another one: they are gone.
    assert build_dashboard(out, dictionary, EXAMPLES, tokenizer).read_text() != text
    assert [p.name for p in (out / "data").iterdir()] == [place.name]
    (out / "data" / "notes").mkdir()
    build_dashboard(out, dictionary, make_examples(seed=1), tokenizer)
    names = {p.name for p in (out / "data").iterdir()}
    assert len(names) == 2 and "notes" in names and place.name not in names
    # What fails leaves the old one.
    before = sorted(p for p in out.rglob("*"))
    with pytest.raises(UserError, match="examples of 150 latents; expected 20"):
        build_dashboard(out, make_dictionary(latents=20), EXAMPLES, tokenizer)
    assert sorted(p for p in out.rglob("*")) == before


def test_other_pages_are_not_overwritten(tmp_path):
    (tmp_path / "index.html").write_text("<p>mine</p>")
    with pytest.raises(UserError, match="another page"):
        build_dashboard(tmp_path, make_dictionary(), EXAMPLES, make_tokenizer())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file at"):
        build_dashboard(tmp_path / "file", make_dictionary(), EXAMPLES, make_tokenizer())
    effects = logit_effects(make_network(), np.ones((2, 32)), k=2)
    with pytest.raises(UserError, match="logit effects of 2 latents"):
        build_dashboard(
            tmp_path / "new", make_dictionary(), EXAMPLES, make_tokenizer(), effects=effects
        )


# The whole run, on a tiny network.


def language_model() -> LanguageModel:
    words = {"[unk]": 0} | {f"w{n}": n for n in range(1, 101)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[unk]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    origin = Origin("tiny", "0" * 64, "1" * 64, "float32")
    return LanguageModel(make_network(), Tokenizer(backend, (), SpecialIds()), None, origin)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    draw = np.random.default_rng(0)
    lines = [" ".join(f"w{n}" for n in draw.integers(1, 101, size)) for size in (3, 9, 20, 12, 7)]
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def small_sae(threshold=0.2) -> Dictionary:
    fresh = sae(32, 40, keys.root_key(1), k=4)
    return Dictionary(fresh.config, fresh.arrays() | {"threshold": jnp.asarray(threshold)})


def small_config(tmp_path, texts, **more):
    return DashboardConfig(
        workdir=str(tmp_path), data=str(texts), site="resid_post[1]", length=16, batch_size=2,
        log_every=1e9, **more,
    )


def codes_by_hand(lm, dictionary, texts):
    """[tokens, F] of all texts, each cut at 16 tokens, one at a time."""
    read = jax.jit(lambda network, batch: Read("x", Site("resid_post", 1))(network)(batch)[1]["x"])
    rows = []
    for line in texts.read_text().splitlines():
        ids = np.zeros((1, 16), np.int32)
        own = lm.tokenizer.encode(json.loads(line)["text"]).ids[:16]
        ids[0, : len(own)] = own
        stream = read(lm.network, Batch.make(ids, np.arange(16)[None] < len(own)))[0, 0]
        rows.append(np.asarray(dictionary.activations(stream))[: len(own)])
    return rows


@pytest.mark.parametrize("bands", ["octaves", "quantiles"])
def test_a_run_from_text_to_page(tmp_path, texts, bands):
    lm, dictionary = language_model(), small_sae()
    config = small_config(tmp_path, texts, bands=bands, skip_first=1)
    made = run(config, (lm,), dictionary)
    codes = np.concatenate([rows[1:] for rows in codes_by_hand(lm, dictionary, texts)])
    assert made.examples.tokens == len(codes)
    np.testing.assert_array_equal(made.examples.active, (codes > 0).sum(0))
    np.testing.assert_allclose(made.examples.largest, codes.max(0), rtol=1e-4, atol=1e-6)
    assert (made.examples.active > 0).any()
    if bands == "quantiles":
        alive = made.examples.active > 0
        cuts = made.examples.largest[alive, None] * np.asarray([0.95, 0.75, 0.5, 0.25])
        np.testing.assert_allclose(made.examples.band_low[alive, :4], cuts, rtol=1e-5)
    page = made.page.read_text()
    assert '"site","resid_post[1]"' in page and '"effects_of":""' in page
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["site"] == "resid_post[1]" and provenance["models"][0]["model"] == "tiny"
    # Again: the examples that are there are used, the page is the same.
    stamp = (tmp_path / "examples.npz").stat().st_mtime_ns
    assert run(config, (lm,), dictionary).page.read_text() == page
    assert (tmp_path / "examples.npz").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(
        load_examples(tmp_path / "examples.npz").active, made.examples.active
    )
    with pytest.raises(UserError, match=r"examples.npz in .* of other weights"):
        run(config, (lm,), small_sae(0.3))


@pytest.mark.parametrize(
    "told, shown, has_effects",
    [
        ("resid_post[2]", "resid_post[2]", True),
        ("mlp_in[1], mlp_out[1]", "mlp_in[1] to mlp_out[1]", True),  # a transcoder
        ("mlp_in[1]", "mlp_in[1]", False),  # not written to the stream
    ],
)
def test_a_dictionary_from_disk_says_its_site(tmp_path, texts, told, shown, has_effects):
    provenance = {"provenance": {"site": told}}
    write_native(tmp_path / "sae", Loaded(small_sae(), {"dictionary.json": provenance}))
    config = dataclasses.replace(
        small_config(tmp_path / "page", texts, dictionary=str(tmp_path / "sae")), site=""
    )
    made = run(config, (language_model(),))
    data = _data(made.page.read_text())
    assert data["facts"][1] == ["site", shown] and data["title"] == "sae"
    block = next((tmp_path / "page" / "data").glob("*/00000.js")).read_text()
    first = json.loads(block[len("report.block(0,") : -3])[0]
    assert (first[3] is not None) == has_effects


def test_a_run_with_two_models(tmp_path):
    base, chat = pair()
    talk = [{"role": "user", "content": " w1 w2 w3"}, {"role": "assistant", "content": " w4 w5"}]
    data = tmp_path / "chats.jsonl"
    data.write_text(json.dumps({"messages": talk}) + "\n" + json.dumps({"text": " w7 w8"}) + "\n")
    dictionary = crosscoder()
    config = small_config(tmp_path / "page", data, effects=3)
    page = _data(run(config, (base, chat), dictionary).page.read_text())
    assert page["facts"][0] == ["models", "base, chat"] and page["effects_of"] == "chat"
    columns = {column["key"]: column for column in page["columns"]}
    np.testing.assert_allclose(columns["norm1"]["values"], dictionary.decoder_norms()[1], rtol=1e-4)
    assert columns["norm1"]["name"] == "Norm chat"
    # The last output's rows, through the last model's head.
    want = logit_effects(chat.network, dictionary.written_rows(1), 3)
    folder = tmp_path / "page" / page["folder"]
    latents = json.loads((folder / "00000.js").read_text()[len("report.block(0,") : -3])
    alive = np.flatnonzero(np.asarray(dictionary.decoder_norms()[1]) > 0)
    for latent in alive:
        found = [value for _, value in latents[latent][3]]
        np.testing.assert_allclose(found, want.raised_by[latent], rtol=1e-3)


def test_ratios_of_a_model_diffing_run(tmp_path, texts):
    (tmp_path / "latents.csv").write_text(
        "latent,nu_eps,nu_r\n" + "".join(f"{n},{n / 10},\n" for n in range(40))
    )
    config = small_config(tmp_path / "page", texts, diff_run=str(tmp_path))
    page = run(config, (language_model(),), small_sae()).page.read_text()
    columns = {c["key"]: c["values"] for c in _data(page)["columns"]}
    np.testing.assert_allclose(columns["nu_eps"], np.arange(40) / 10)
    assert columns["nu_r"] == [None] * 40
    # The page alone changes with these, so they may change in the same workdir.
    other = dataclasses.replace(config, diff_run=None, effects=0, neighbours=0, title="Other")
    data = _data(run(other, (language_model(),), small_sae()).page.read_text())
    assert data["title"] == "Other" and "nu_eps" not in [c["key"] for c in data["columns"]]
    with pytest.raises(UserError, match="top: 12 there, 3 now"):
        run(dataclasses.replace(config, top=3), (language_model(),), small_sae())
    (tmp_path / "latents.csv").write_text("latent,nu_eps,nu_r\n0,1,1\n")
    with pytest.raises(UserError, match="1 latents with nu_eps, nu_r"):
        run(config, (language_model(),), small_sae())


def _data(page: str):
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_refusals_of_a_run(tmp_path, texts):
    lm = language_model()
    with pytest.raises(UserError, match="no dictionary"):
        run(small_config(tmp_path / "a", texts), (lm,))
    with pytest.raises(UserError, match="a dictionary of 2 inputs of width 32, and 1 activations"):
        run(small_config(tmp_path / "b", texts), (lm,), make_dictionary())
    with pytest.raises(UserError, match="no token that counts"):
        run(small_config(tmp_path / "c", texts, skip_first=50), (lm,), small_sae())
    with pytest.raises(UserError, match=r"no latents.csv in"):
        run(small_config(tmp_path / "d", texts, diff_run="nowhere"), (lm,), small_sae())
    with pytest.raises(UserError, match="site"):
        DashboardConfig(dictionary="x", site="somewhere[1]")
