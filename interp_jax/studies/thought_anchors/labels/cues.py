r"""Words and signs by which the rules tell what a sentence does.

Phrases are regular expressions between word boundaries, in lower case; an apostrophe is plain.
Each list follows from what its tag means, not from counts over labelled traces.
"""

from __future__ import annotations

import re


def _any_of(*phrases: str) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(phrases) + r")(?!\w)")


_WE = r"(?:i|we)"
_LET = r"(?:let me|let's|let us)"
_ABLE = r"(?:(?:need|have|want|ought) to|should|could|can|will|must|'ll|'d)"
_CHECK = r"(?:double[- ]?check|re-?check|check|verify|confirm|validate|make sure|be sure|test)"

FINAL = re.compile(r"\\boxed\s*\{\s*[^}\s]|(?<!\w)final answer(?!\w)")
"""The answer itself, in its box or called final."""

THE_ANSWER = _any_of(
    r"(?:the|my|our) answer (?:is|must be|should be|would be)", r"answer\s*:",
    r"(?:is|must be|should be) the answer",
)
"""Calls something the answer; final only near the end of a trace."""

TASK = _any_of(
    r"(?:the|this) (?:problem|question|task) (?:is|asks|says|states|wants|gives|reads|here)",
    rf"{_WE}(?:'m| am|'re| are) (?:asked|given|told|supposed|looking)",
    rf"{_WE} (?:have|got|was given|were given) (?:this|the|a) (?:problem|question|task)",
    r"(?:asks|asking) (?:for|us|me|how|what|about)", r"what is (?:being )?asked",
)
"""Speaks about the task as such."""

GOAL = _any_of(
    rf"{_WE} (?:need|have|want) to (?:find|figure|determine|compute|calculate|work out|know|solve)",
    r"the goal is", r"to find", r"understand the (?:problem|question)",
)
"""What is wanted; setting up at the start of a trace, planning later on."""

CHECKING = _any_of(
    rf"{_LET} (?:just |also |quickly )?{_CHECK}", rf"{_WE} (?:\w+ )?(?:to )?{_CHECK}",
    rf"to {_CHECK}", r"(?:double|re)[- ]?check(?:ing|ed|s)?", r"verif(?:y|ying|ied|ies|ication)",
    r"sanity check", r"just to be (?:sure|safe)", r"plug(?:ging)? (?:\w+ ){0,3}back",
    r"substitut(?:e|ing) (?:\w+ ){0,3}back", r"check(?:s|ing)?(?: out)?", r"confirm(?:s|ed|ing)?",
)
"""Tests something found before."""

HELD = _any_of(
    r"(?:that|this|it|which|everything|all|so)(?:'s| is| seems| looks)? (?:also )?"
    r"(?:correct|right|consistent|checks out|works out|matches|agrees|makes sense|fits)",
    r"match(?:es)? (?:up|with|what|the|our|my)", r"consistent with", r"as expected", r"yes",
)
"""Reports that a test went well."""

DOUBT = _any_of(
    r"wait", r"hmm+", r"hold on", r"hang on", r"oh no", r"oops", r"actually", r"no,",
    r"(?:i'm|i am|we're|we are|a bit|bit) (?:not sure|unsure|confused|stuck|uncertain|mixing)",
    r"not (?:sure|certain|clear)", r"confus(?:ed|ing|ion)", r"mistakes?", r"mistaken", r"wrong",
    r"error", r"incorrect", r"contradict(?:s|ion|ory)?", r"conflict(?:s|ing)?", r"discrepancy",
    r"(?:can't|cannot|could not|couldn't) be", r"(?:isn't|not|doesn't seem) right",
    r"(?:doesn't|does not|didn't) (?:seem|make sense|match|work|add up|fit)",
    r"(?:did|am|was) i", r"i (?:might|may|must) have", r"misread", r"misunderst\w+",
    r"miss(?:ed|ing) something", r"that's (?:strange|odd|weird)", r"on the other hand", r"or is it",
)
"""Doubts, notices a conflict, goes back."""

HEDGE = _any_of(r"maybe", r"perhaps", r"might", r"i think", r"i guess", r"seems?", r"unless")
"""Weaker doubt; counts only where nothing else speaks."""

PLAN = _any_of(
    rf"{_LET}(?! (?:recall|remember))", rf"{_WE} ?{_ABLE}", r"maybe (?:i|we) (?:can|could)",
    r"alternatively", r"instead of", r"approach", r"proceed", r"step \d+",
    r"(?:another|one|a better|a different|the best) (?:way|method|idea)",
    r"(?:first|next|then|now),? (?:i|we|let)", r"the (?:plan|idea|strategy)",
    r"how (?:do|can|could|should|would) (?:i|we|you)", r"(?:start|begin) (?:by|with|from)",
    r"try(?:ing)? (?:to|another|a different)", r"to do (?:this|that|so)",
)
"""Says what to do next, or weighs ways to go on."""

RECALL = _any_of(
    r"(?:i|we) (?:recall|remember|know|learned)", r"recall(?:ing)?", r"remember(?:ing)?",
    r"by definition", r"(?:is|are) defined", r"definition", r"formula", r"theorem", r"identity",
    r"property", r"in general", r"(?:it is|it's) (?:well )?known", r"given (?:that|by|in|as)",
    r"according to", r"the (?:problem|question) (?:says|states|gives)", r"stands? for",
    r"(?:is|are) called", r"means that each",
)
"""Brings in something known."""

CONCLUDE = _any_of(
    r"therefore", r"thus", r"hence", r"in (?:total|all|conclusion|summary|short)", r"altogether",
    r"overall", r"to (?:summarize|sum up|conclude)", r"combin(?:e|ed|ing)", r"so far",
    r"putting (?:it|this|these|that|them|everything|all)", r"(?:that|this|which) means",
    r"so,? (?:the|that's|that is|it's|it is|there are|we have|we get|i have|i get|in|all|both)",
    r"(?:both|all) (?:methods|ways|approaches)", r"as a result", r"consequently", r"it follows",
)
"""Draws results together."""

WORKING = _any_of(
    r"plus", r"minus", r"times", r"divid(?:e|ed|es|ing)(?: by)?", r"multipl(?:y|ied|ying|ies)",
    r"subtract(?:ed|ing|s)?", r"add(?:ed|ing|s)?", r"squar(?:e|ed|ing)", r"equals?", r"equal to",
    r"simplif(?:y|ies|ied|ying)", r"substitut(?:e|ed|ing)", r"expand(?:ed|ing|s)?",
    r"factor(?:ed|ing)?", r"cancel(?:s|led|ling)?", r"solv(?:e|ed|ing) for", r"remainder",
    r"quotient", r"gives?(?: us| me)?", r"giving", r"yields?", r"becomes?", r"sums? to",
    r"rounds? to", r"carry", r"counting",
)
"""Verbs and nouns of working something out."""

_OPERAND = r"[\w.,)\]}!%]"
OPERATION = re.compile(
    rf"{_OPERAND}\s*[+*/×·÷^]\s*[\w(\[{{\\]|\d\s*[-−–]\s*\d"
    r"|\\(?:times|cdot|frac|dfrac|tfrac|sqrt|sum|prod|int|log|ln|div|pmod|bmod|binom)(?![a-z])"
)
"""An operation written in signs."""

RELATION = re.compile(r"[=≈≡≤≥]|\\(?:approx|equiv|leq?|geq?|implies|Rightarrow)(?![a-zA-Z])")
"""An equation or inequality written in signs."""
