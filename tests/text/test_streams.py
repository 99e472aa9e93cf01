"""Streams of tokens: nothing lost, the same rows after a stop, disjoint rows for processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.models import roles
from interp_jax.runtime.errors import UserError
from interp_jax.text.stream_sources import RecordSource
from interp_jax.text.streams import TokenStream
from interp_jax.text.streams_mixed import MixedStream
from tests.text.stream_words import BOS, END, EOS, TEMPLATE, WORDS, words_tokenizer

pytestmark = pytest.mark.core
TOKENIZER = words_tokenizer()


def source(lengths, name="made", first=0):
    """Texts of so many words; each word says where it stands, modulo the vocabulary."""
    number, records = first, []
    for length in lengths:
        records.append({"text": " ".join(f"w{(number + i) % 80}" for i in range(length))})
        number += length
    label = f"{name} {list(lengths)} {first}"
    return RecordSource(lambda skip: iter(records[skip:]), label), records


def all_rows(stream, limit=10_000):
    rows = []
    for _ in range(limit):
        try:
            rows.append(stream.next(1))
        except StopIteration:
            return rows
    raise AssertionError("no end")


def row_tokens(rows):
    return [row.tokens[0][row.valid[0]].tolist() for row in rows]


def flat(text):
    return [BOS, *(WORDS[w] for w in text.split())]


LENGTHS = st.lists(st.integers(1, 17), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(2, 9), st.integers(1, 3), st.integers(0, 5))
def test_packing_loses_nothing_and_pads_only_the_last_row(lengths, length, epochs, shuffle):
    made, records = source(lengths)
    stream = TokenStream(made, TOKENIZER, length, epochs=epochs, shuffle=shuffle, seed=3)
    rows = row_tokens(all_rows(stream))
    assert all(len(row) == length for row in rows[:-1]) and 0 < len(rows[-1]) <= length
    found = [token for row in rows for token in row]
    documents, one = [], []
    for token in found:
        one.append(token)
        if token == EOS:
            documents.append(one)
            one = []
    assert not one
    wanted = [[*flat(r["text"]), EOS] for r in records]
    if not shuffle:
        assert documents == wanted * epochs
    for epoch in range(epochs):
        own = documents[epoch * len(wanted) : (epoch + 1) * len(wanted)]
        assert sorted(own) == sorted(wanted)
        for begin in range(0, len(wanted), max(shuffle, 1)):  # no document leaves its block
            block = slice(begin, begin + max(shuffle, 1))
            assert sorted(own[block]) == sorted(wanted[block])


def test_epochs_are_permuted_differently_and_seeds_too():
    made, _ = source([3] * 30)
    rows = lambda seed: row_tokens(
        all_rows(TokenStream(made, TOKENIZER, 5, epochs=2, shuffle=30, seed=seed))
    )
    first = rows(0)
    assert len(first) == 60 and first[:30] != first[30:] and rows(1) != first and rows(0) == first


@pytest.mark.parametrize("pack", [True, False])
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, length=st.integers(2, 9), shuffle=st.integers(0, 5), data=st.data())
def test_a_stream_goes_on_where_a_cursor_was_taken(pack, lengths, length, shuffle, data):
    made, _ = source(lengths)
    make = lambda: TokenStream(
        made, TOKENIZER, length, epochs=2, shuffle=shuffle, seed=1, pack=pack
    )
    stream, cursors, rows = make(), [], []
    for _ in range(1000):
        cursors.append(json.loads(json.dumps(stream.cursor())))
        try:
            rows.append(stream.next(1))
        except StopIteration:
            break
    n = data.draw(st.integers(0, len(rows)))
    again = make()
    again.next(1)
    again.seek(cursors[n])
    assert row_tokens(all_rows(again)) == row_tokens(rows[n:])


@settings(max_examples=30, deadline=None)
@given(LENGTHS, LENGTHS, st.sampled_from([None, (1, 1), (3, 1)]), st.booleans(), st.data())
def test_a_mixed_stream_goes_on_where_a_cursor_was_taken(left, right, shares, pack, data):
    def make():
        parts = [
            TokenStream(source(lengths, name)[0], TOKENIZER, 6, shuffle=2, pack=pack)
            for lengths, name in ((left, "web"), (right, "chat"))
        ]
        return MixedStream(parts, shares=shares)

    rows = all_rows(make())
    n = data.draw(st.integers(0, len(rows)))
    stream, again = make(), make()
    for _ in range(n):
        stream.next(1)
    again.seek(json.loads(json.dumps(stream.cursor())))
    assert row_tokens(all_rows(again)) == row_tokens(rows[n:])


def test_mixing_in_turn_gives_half_of_each_to_the_token():
    web = TokenStream(source([7] * 20, "web")[0], TOKENIZER, 4)
    chat = TokenStream(source([5] * 9, "chat")[0], TOKENIZER, 4)
    alone = [
        row_tokens(all_rows(TokenStream(source(lengths, name)[0], TOKENIZER, 4)))
        for lengths, name in (([7] * 20, "web"), ([5] * 9, "chat"))
    ]
    mixed = MixedStream([web, chat])
    rows = row_tokens([mixed.next(1) for _ in range(20)])
    assert rows[::2] == alone[0][:10] and rows[1::2] == alone[1][:10]
    assert mixed.token_counts == (40, 40)


@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (0.2, 0.8)])
def test_shares_hold_by_tokens_whatever_the_rows_lengths(shares):
    streams = [
        TokenStream(source(lengths, name)[0], TOKENIZER, 12, pack=False, epochs=None)
        for lengths, name in (([2, 3], "short"), ([9, 10, 11], "long"))
    ]
    mixed = MixedStream(streams, shares=shares)
    for _ in range(300):
        mixed.next(1)
        counts = np.asarray(mixed.token_counts)
        share = np.asarray(shares) / sum(shares)
        assert np.all(np.abs(counts - share * counts.sum()) <= 12)  # at most a row behind


@pytest.mark.parametrize("mixed", [False, True])
def test_processes_together_have_the_batch_of_one(mixed):
    def make(shard):
        one = lambda name, own: TokenStream(
            source([5, 2, 9, 3] * 4, name)[0], TOKENIZER, 5, shuffle=3, shard=own
        )
        if not mixed:
            return one("a", shard)
        return MixedStream([one("a", (0, 1)), one("b", (0, 1))], shard=shard)

    whole, parts = make((0, 1)), [make((p, 3)) for p in range(3)]
    for _ in range(3):
        batch, own = whole.next(6), [part.next(2) for part in parts]
        for name in batch._fields:
            joined = np.concatenate([getattr(rows, name) for rows in own])
            np.testing.assert_array_equal(joined, getattr(batch, name))
    assert whole.cursor() == parts[0].cursor() == parts[2].cursor()


def test_unpacked_rows_are_documents_cut_and_padded():
    stream = TokenStream(source([2, 9])[0], TOKENIZER, 5, pack=False)
    rows = stream.next(2)
    assert rows.tokens.dtype == np.int32 and rows.roles.dtype == np.int8
    assert rows.valid.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert rows.tokens[0].tolist() == [BOS, 10, 11, 0, 0]
    assert rows.tokens[1].tolist() == [BOS, 12, 13, 14, 15]
    with pytest.raises(StopIteration):
        stream.next(1)


def test_a_chat_has_the_roles_of_its_messages():
    messages = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    made = RecordSource(lambda skip: [{"messages": messages}][skip:], "chat")
    rows = TokenStream(made, TOKENIZER, 12, template=TEMPLATE).next(1)
    count = int(rows.valid.sum())
    assert rows.tokens[0, :count].tolist() == [4, 11, 12, END, 5, 13, END, EOS]
    user, template, answer = roles.USER, roles.TEMPLATE, roles.ANSWER
    wanted = [template, user, user, template, template, answer, template, template]
    assert rows.roles[0, :count].tolist() == wanted


def test_what_does_not_fit_is_refused():
    made, _ = source([3])
    chat = RecordSource(lambda skip: [{"messages": [{"role": "user", "content": "w"}]}], "chat")
    with pytest.raises(UserError, match="no chat template"):
        TokenStream(chat, TOKENIZER, 4).next(1)
    with pytest.raises(UserError, match="without an EOS"):
        TokenStream(made, words_tokenizer(eos=False), 4)
    with pytest.raises(UserError, match="2 tokens or more"):
        TokenStream(made, TOKENIZER, 1)
    with pytest.raises(UserError, match="at least one epoch"):
        TokenStream(made, TOKENIZER, 4, epochs=0)
    with pytest.raises(UserError, match="process 2 of 2"):
        TokenStream(made, TOKENIZER, 4, shard=(2, 2))
    empty = RecordSource(lambda skip: [], "empty")
    with pytest.raises(UserError, match="nothing in records.*at least one document"):
        TokenStream(empty, TOKENIZER, 4, epochs=None).next(1)
    one = TokenStream(made, TOKENIZER, 4)
    with pytest.raises(UserError, match="cursor of another stream"):
        one.seek(TokenStream(made, TOKENIZER, 5).cursor())
    with pytest.raises(UserError, match="two or more of one length"):
        MixedStream([one, TokenStream(made, TOKENIZER, 5)])
    with pytest.raises(UserError, match="one positive number for each"):
        MixedStream([one, one], shares=(1, 0))
    with pytest.raises(UserError, match="parts that are sharded"):
        MixedStream([one, TokenStream(made, TOKENIZER, 4, shard=(0, 2))])
