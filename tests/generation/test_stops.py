"""Stop tokens and stop strings: exact ends, and the same ends however the text is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.generation.stops import StopScanner, StopStrings, StopTokens
from interp_jax.runtime.errors import UserError


def test_stop_tokens_are_found_on_the_device():
    hit = jax.jit(lambda stops, tokens: stops(tokens))
    tokens = jnp.asarray([5, 2, 0, 7], jnp.int32)
    np.testing.assert_array_equal(hit(StopTokens.make([2, 7]), tokens), [False, True, False, True])
    np.testing.assert_array_equal(hit(StopTokens.make(5), tokens), [True, False, False, False])
    assert not np.asarray(hit(StopTokens.make([]), tokens)).any()
    with pytest.raises(UserError):
        StopTokens.make([-1])


def test_the_match_that_is_completed_first_wins():
    assert StopStrings(["abcd", "c"]).match("xabcd") == (3, 4, "c")
    assert StopStrings(["b", "ab"]).match("xxab") == (2, 4, "ab")
    assert StopStrings(["zz"]).first_match("abc") is None
    assert StopStrings([]).first_match("abc") is None
    assert StopStrings(["\n\n"]).first_match("a\n\nb") == 1


@pytest.mark.parametrize("strings", [[""], ["a", ""], "ab", [3]])
def test_bad_stop_strings_are_refused(strings):
    with pytest.raises(UserError):
        StopStrings(strings)


def test_trim_cuts_at_the_token_that_completes_the_string():
    # Tokens: "He", "llo", " En", "d. M", "ore"
    tokens, ends = [1, 2, 3, 4, 5], [2, 5, 8, 12, 15]
    cut = StopStrings(["End."]).trim(tokens, "Hello End. More", ends)
    assert (cut.tokens, cut.text, cut.match[:2]) == ([1, 2, 3, 4], "Hello ", (6, 10))
    whole = StopStrings(["Stop"]).trim(tokens, "Hello End. More", ends)
    assert (whole.tokens, whole.text, whole.match) == (tokens, "Hello End. More", None)
    with pytest.raises(UserError):
        StopStrings(["a"]).trim([1, 2], "ab", [1])


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(st.text("abc", max_size=5), max_size=8),
    strings=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_pieces_give_the_match_of_the_whole_text(pieces, strings):
    stops = StopStrings(strings)
    scanner = StopScanner(stops)
    for count, piece in enumerate(pieces):
        assert scanner.feed(piece) == stops.match("".join(pieces[: count + 1]))
