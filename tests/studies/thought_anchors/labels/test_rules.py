"""Labels by rules: what each tag means, links by rare numbers, and the same every time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.labels.linking import LINK_RULES, link_sentences
from interp_jax.studies.thought_anchors.labels.rules import label_with_rules
from interp_jax.studies.thought_anchors.labels.taxonomy import BY_NAME, TAGS, find_tag

pytestmark = pytest.mark.core

QUESTION = "A farmer has 48 apples and gives half of them to each of his neighbours in turn."
EXAMPLES = {
    "problem_setup": [
        "The problem says that he gives half of them away.",
        "I'm asked about the apples that are left.",
    ],
    "plan_generation": [
        "Let me start with the first neighbour.",
        "Alternatively, I could go backwards from the end.",
        "First, we need to know what half of it is.",
        "How can I turn this into an equation?",
    ],
    "fact_retrieval": [
        "I recall that half of an even number is whole.",
        "The formula for a geometric series is well known.",
        "A dozen stands for twelve things.",
        "Every neighbour is a different person.",
    ],
    "active_computation": [
        "48 / 2 = 24.",
        "Half of that is 24, and 24 minus 12 gives 12.",
        r"\[ x = \frac{48}{2} \]",
        "Then x + 3 = 27, so x = 24.",
    ],
    "uncertainty_management": [
        "Wait, that is not what it says.",
        "Hmm, I am a bit confused here.",
        "Something is wrong with this number.",
        "Is it the first one or the second?",
    ],
    "result_consolidation": [
        "Therefore, 24 apples are left after the first neighbour.",
        "In total there are six of them.",
        "So the number of neighbours is four.",
    ],
    "self_checking": [
        "Let me double-check this.",
        "Wait, let me verify the second half.",
        "That matches what I found before.",
        "Plugging x back in should do.",
    ],
    "final_answer_emission": [
        r"So it is \boxed{12}.",
        "**Final Answer**",
    ],
}


@pytest.mark.parametrize(
    "tag, sentence", [(tag, text) for tag, texts in EXAMPLES.items() for text in texts]
)
def test_a_sentence_that_shows_its_tag_gets_it(tag, sentence):
    around = ["Two people walk."] * 4
    labels = label_with_rules(QUESTION, [*around, sentence, *around])
    assert labels.main[4] == tag
    assert label_with_rules(QUESTION, [*around, sentence.replace("'", "\u2019")]).main[4] == tag


def test_position_and_the_question_decide_at_both_ends():
    first = "So a farmer has apples and gives half to his neighbours."
    labels = label_with_rules(QUESTION, [
        "Okay, let me look at this.", first, "48 / 2 = 24.", "The answer is 24.",
        *["Two people walk."] * 6, first, "The answer is 24.",
    ])
    assert labels.main[:3] == ("problem_setup", "problem_setup", "active_computation")
    assert labels.main[3] != "final_answer_emission" == labels.main[-1]
    assert labels.main[-2] != "problem_setup"


RARE = "rare_tokens"


def test_links_go_to_the_nearest_earlier_use_of_a_rare_number():
    sentences = [
        "He has 48 apples.",  # 0
        "He likes them.",  # 1: nothing shared, so the one before
        "Half of 48 is 24.",  # 2: 48
        "Then 24 - 4 = 20.",  # 3: 24; one digit is no number to go by
        "Also 1,000 of 48.",  # 4: 48 from 2
        "And 1000 and 20.",  # 5: both, commas do not matter
        r"With x_1 we start.", r"Nothing here.", r"And so $x_{1}$ ends.",  # 8: x_1 from 6
    ]
    rare = ((), (0,), (0,), (2,), (2,), (3, 4), (5,), (6,), (6,))
    assert link_sentences(sentences, RARE) == rare
    before = tuple((i - 1,) if i else () for i in range(9))
    assert link_sentences(sentences) == link_sentences(sentences, "previous") == before
    both = ((), (0,), (0, 1), (2,), (2, 3), (3, 4), (5,), (6,), (6, 7))
    assert link_sentences(sentences, "both") == both
    assert label_with_rules("", sentences, links=RARE).depends_on == rare
    assert label_with_rules("", sentences).depends_on == before


def test_a_link_rule_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="one of previous, rare_tokens, both"):
        link_sentences(["One."], "nearest")


def test_a_number_that_is_everywhere_links_nothing():
    sentences = ["Take 48 once more."] * 40
    assert link_sentences(sentences, RARE) == ((), *((i - 1,) for i in range(1, 40)))


def test_nothing_gives_nothing_and_the_same_gives_the_same():
    assert len(label_with_rules("", [])) == 0
    texts = [text for texts in EXAMPLES.values() for text in texts]
    first, second = (label_with_rules(QUESTION, texts) for _ in range(2))
    assert first == second and first.by == "rules" and not first.dropped
    assert sum(first.counts().values()) == len(texts)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=8),
       st.sampled_from(sorted(LINK_RULES)))
def test_any_text_gets_a_tag_and_links_that_point_back(question, sentences, rule):
    labels = label_with_rules(question, sentences, links=rule)
    assert len(labels) == len(sentences)
    assert all(later > earlier for later, earlier in labels.links)
    # Every sentence but the first builds on something.
    assert all(labels.depends_on[1:])


def test_the_taxonomy_has_eight_tags_by_name_and_short_code():
    assert len(TAGS) == 8 and len(BY_NAME) == 9 and len({tag.colour for tag in TAGS}) == 8
    for tag in TAGS:
        assert find_tag(tag.name) == find_tag(tag.short) == tag.name
        assert find_tag(tag.name.replace("_", " ").title()) == tag.name
    assert find_tag("unknown") == "unknown"
    assert find_tag("poetry") is None and find_tag("") is None and find_tag("-") is None
