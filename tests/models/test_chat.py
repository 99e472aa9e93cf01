"""Chats: the template's text, the oracle's ids, a role per token, and nothing smuggled in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.models import roles
from interp_jax.models.chat import ChatTemplate
from interp_jax.models.gguf_header import open_gguf
from interp_jax.models.sources import DEFAULT_MODEL, locate
from interp_jax.models.tokenizer_files import tokenizer_from_gguf
from interp_jax.runtime.errors import UserError

COLOURS = (
    "1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198 "
    "1 4093 198 5820 1296 3003 14797 30 2 198 1 520 9531 198"
)
#: Splits reasoning off earlier answers and trims, as the templates of reasoning models do.
REASONER = (
    "{{ bos_token }}{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set c = m.content.split('</think>')[-1] if '</think>' in m.content else m.content %}"
    "<|im_start|>assistant\n{% if loop.last %}{{ m.content | trim }}{% else %}{{ c | trim }}"
    "{% endif %}<|im_end|>\n{%- else %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{%- endif %}{%- endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% endif %}"
)


@pytest.fixture(scope="module")
def smol():
    metadata = open_gguf(locate(DEFAULT_MODEL).path).metadata
    tokenizer = tokenizer_from_gguf(metadata)
    template = ChatTemplate(metadata["tokenizer.chat_template"], tokenizer.special_texts())
    return tokenizer, template


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def test_oracle_ids_and_roles(smol):
    tokenizer, template = smol
    out = template.encode(
        tokenizer, [user("Name three primary colours.")], add_generation_prompt=True
    )
    assert " ".join(map(str, out.ids)) == COLOURS
    assert (out.ids.dtype, out.roles.dtype, out.offsets.dtype) == (np.int32, np.int8, np.int32)
    asked = tokenizer.encode("Name three primary colours.").ids
    np.testing.assert_array_equal(out.ids[out.roles == roles.USER], asked)
    # The system prompt that the template puts in by itself is the template's.
    assert set(out.roles) == {roles.USER, roles.TEMPLATE}


def test_every_role(smol):
    tokenizer, template = smol
    chat = [
        {"role": "system", "content": "Be brief."},
        user("2+2?"),
        answer("<think>two and two</think>4"),
        user("Sure?"),
    ]
    out = template.encode(tokenizer, chat)
    by_role = {
        name: "".join(out.text[a:b] for a, b in out.offsets[out.roles == role])
        for name, role in roles.NAMES.items()
    }
    assert by_role == {
        "system": "Be brief.",
        "user": "2+2?Sure?",
        "reasoning": "<think>two and two</think>",
        "answer": "4",
        "image": "",
        "template": "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n",
    }


def test_an_assistant_turn_can_be_continued(smol):
    tokenizer, template = smol
    chat = [user("Hi"), answer("The sky is ")]
    out = template.encode(tokenizer, chat, continue_final_message=True)
    assert out.text.endswith("assistant\nThe sky is ")
    opened = template.encode(tokenizer, [user("Hi")], add_generation_prompt=True)
    assert opened.ids.tolist() == out.ids[: len(opened.ids)].tolist()
    assert set(out.roles[len(opened.ids) :]) == {roles.ANSWER}
    thinking = template.encode(
        tokenizer, [user("Hi"), answer("<think>so far")], continue_final_message=True
    )
    assert thinking.roles[-1] == roles.REASONING


PIECES = [*"ab \n<|>", "<|im_end|>", "<|im_start|>user\n", "</think>"]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_no_content_adds_a_control_token(smol, texts):
    """As many control tokens as with harmless contents, and the text is the template's own."""
    tokenizer, template = smol
    chat = [(user, answer)[i % 2](text) for i, text in enumerate(texts)]
    harmless = [(user, answer)[i % 2]("x") for i in range(len(texts))]
    control = [token.id for token in tokenizer.control]
    out, plain = (template.encode(tokenizer, messages) for messages in (chat, harmless))
    assert np.isin(out.ids, control).sum() == np.isin(plain.ids, control).sum()
    assert tokenizer.decode(out.ids) == out.text
    assert (out.roles[np.isin(out.ids, control)] == roles.TEMPLATE).all()


def test_a_template_that_trims_and_drops_reasoning(smol):
    tokenizer, _ = smol
    template = ChatTemplate(REASONER, {"bos_token": "<|endoftext|>"})
    chat = [user("  hi "), answer("<think>a\n</think>\n b "), user("x<|im_end|>")]
    out = template.encode(tokenizer, chat, add_generation_prompt=True)
    spans = {r: "".join(out.text[a:b] for a, b in out.offsets[out.roles == r]) for r in range(6)}
    assert spans[roles.USER] == "hix<|im_end|>" and spans[roles.ANSWER] == "b"
    assert out.ids[0] == 0 and (out.ids == 2).sum() == 3


def test_a_template_that_rewrites_contents(smol):
    """Contents are looked for; control tokens in messages are then refused."""
    tokenizer, _ = smol
    shout = ChatTemplate("{% for m in messages %}[{{ m.content | upper }}]{% endfor %}")
    out = shout.encode(tokenizer, [user("HI"), user("there")])
    assert out.text == "[HI][THERE]"
    assert (out.roles == roles.USER).sum() == 1 and out.roles[-1] == roles.TEMPLATE
    with pytest.raises(UserError, match="changes: 'hey<|im_end|>'".replace("|", r"\|")):
        shout.encode(tokenizer, [user("hey<|im_end|>")])


def test_reasoning_moved_by_the_template_is_found(smol):
    tokenizer, _ = smol
    mover = ChatTemplate(
        "{% for m in messages %}{% if '</think>' in m.content %}"
        "{% set p = m.content.split('</think>') %}<think>\n{{ p[0].replace('<think>', '') | trim }}"
        "\n</think>\n\n{{ p[1] | trim }}{% else %}{{ m.content }}{% endif %};{% endfor %}"
    )
    out = mover.encode(tokenizer, [user("q"), answer("<think>why</think>because")])
    assert "".join(out.text[a:b] for a, b in out.offsets[out.roles == roles.REASONING]) == "why"
    assert "".join(out.text[a:b] for a, b in out.offsets[out.roles == roles.ANSWER]) == "because"


def test_control_tokens_of_an_assistant_can_be_meant(smol):
    tokenizer, template = smol
    chat = [user("a<|endoftext|>"), answer("b<|endoftext|>")]
    assert 0 not in template.encode(tokenizer, chat).ids
    out = template.encode(tokenizer, chat, assistant_control=True)
    assert (out.ids == 0).sum() == 1 and out.roles[out.ids == 0] == roles.ANSWER


@pytest.mark.parametrize(
    "expression",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception('Roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os }}",
    ],
)
def test_sandbox(smol, expression):
    with pytest.raises(UserError, match="chat template refuses"):
        ChatTemplate(expression).render([user("x")])


def test_template_functions(smol):
    render = ChatTemplate(
        "{%- generation %}{{ messages[0] | tojson }}{% endgeneration %} "
        "{{ strftime_now('%Y') | length }}{% for i in range(9) %}{% if i == 2 %}{% break %}"
        "{% endif %}{{ i }}{% endfor %}"
    ).render([user("é<")])
    assert render.text == '{"role": "user", "content": "é<"} 401'


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "no messages"),
        ([user("a")], dict(add_generation_prompt=True, continue_final_message=True), "both"),
        ([{"role": "robot", "content": "a"}], {}, "'robot'"),
        ([{"role": "user"}], {}, "message 0"),
        ([{"role": "user", "content": ["a"]}], {}, "message 0"),
        ([user("a"), {"role": "user", "content": "a", "tool_calls": "x"}], {}, "message 1"),
        ([user("\U0010f001")], {}, "private-use"),
    ],
)
def test_refused_messages(smol, messages, options, message):
    with pytest.raises(UserError, match=message):
        smol[1].render(messages, **options)


def test_a_template_that_does_not_parse():
    with pytest.raises(UserError, match="does not parse"):
        ChatTemplate("{% for %}").render([user("a")])


def test_nothing_to_continue():
    with pytest.raises(UserError, match="final message"):
        ChatTemplate("hello").render([user("a")], continue_final_message=True)
