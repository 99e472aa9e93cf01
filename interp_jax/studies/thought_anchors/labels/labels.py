"""Labels of a trace: a tag and earlier sentences for each sentence, checked to be a DAG."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.labels.taxonomy import BY_NAME, UNKNOWN


@dataclass(frozen=True)
class Dropped:
    """What was not taken over from a labeller's answer.

    Attributes:
        missing: sentences without an entry that can be read; their tag is `unknown`.
        extra: entries for sentences that do not exist, or that have one already.
        unknown_tags: tags outside the taxonomy.
        self_links, forward_links, outside_links: dependencies of a sentence on itself, on a later
            one, on one that does not exist. bad_links: on something that is no index.
    """

    missing: int = 0
    extra: int = 0
    unknown_tags: int = 0
    self_links: int = 0
    forward_links: int = 0
    outside_links: int = 0
    bad_links: int = 0

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))


@dataclass(frozen=True)
class Labels:
    """What each of S sentences does and builds on.

    Attributes:
        tags: [S], the names of each sentence's tags, the main one first; never empty.
        depends_on: [S], indices of the earlier sentences that each builds directly on, ascending.
            Links only point back, so they form a directed acyclic graph.
        by: who labelled: a model's name, `rules`, `released`.
        version: of the prompt or the rules.
        dropped: what the checks left out.

    Raises:
        UserError: lengths that differ, a tag outside the taxonomy, or a link that does not point
            back.
    """

    tags: tuple[tuple[str, ...], ...]
    depends_on: tuple[tuple[int, ...], ...]
    by: str
    version: str
    dropped: Dropped = field(default_factory=Dropped)

    def __post_init__(self) -> None:
        if len(self.tags) != len(self.depends_on):
            raise _wrong(
                f"tags of {len(self.tags)} and links of {len(self.depends_on)} sentences",
                "as many of both",
            )
        for index, (tags, links) in enumerate(zip(self.tags, self.depends_on, strict=True)):
            if not tags or any(tag not in BY_NAME for tag in tags):
                raise _wrong(f"the tags {tags} of sentence {index}", "one or more known tags")
            if any(not 0 <= link < index for link in links):
                raise _wrong(f"links {links} of sentence {index}", "indices of earlier sentences")

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def main(self) -> tuple[str, ...]:
        """[S], each sentence's main tag."""
        return tuple(tags[0] for tags in self.tags)

    @property
    def links(self) -> frozenset[tuple[int, int]]:
        """Every dependency as (sentence, earlier sentence)."""
        return frozenset(
            (index, link) for index, links in enumerate(self.depends_on) for link in links
        )

    def counts(self) -> dict[str, int]:
        """How many sentences have each tag as their main one, over the whole taxonomy."""
        found = Counter(self.main)
        return {name: found[name] for name in BY_NAME}


def read_links(entries: Any, index: int, count: int, dropped: Counter[str]) -> tuple[int, ...]:
    """The valid links among a labeller's entries for one sentence, ascending; others counted.

    Args:
        entries: a list of indices, as numbers or text; one index is a list of one.
        index: of the sentence. count: of all sentences.
        dropped: counts by field name of `Dropped`, added to.
    """
    if isinstance(entries, (str, int)):
        entries = [entries]
    if not isinstance(entries, (list, tuple)):
        dropped["bad_links"] += entries is not None
        return ()
    kept = set()
    for entry in entries:
        link = read_index(entry)
        if link is None:
            dropped["bad_links"] += 1
        elif not 0 <= link < count:
            dropped["outside_links"] += 1
        elif link == index:
            dropped["self_links"] += 1
        elif link > index:
            dropped["forward_links"] += 1
        else:
            kept.add(link)
    return tuple(sorted(kept))


def read_index(entry: Any) -> int | None:
    """An index as a labeller may write it (3, "3", "Sentence 3", "chunk_3"), or None."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry
    if not isinstance(entry, str):
        return None
    text = entry.strip().lower()
    for word in ("sentence", "chunk"):
        text = text.removeprefix(word)
    text = text.strip(" _:#")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def labels_of_records(records: Iterable[Mapping[str, Any]]) -> Labels:
    """Labels in released sentence records (`chunk_idx`, `function_tags`, `depends_on`).

    An index without a record has the tag `unknown`; tags outside the taxonomy and links that do
    not point back are dropped and counted.
    """
    records = list(records)
    count = 1 + max((record["chunk_idx"] for record in records), default=-1)
    tags: list[tuple[str, ...]] = [(UNKNOWN.name,)] * count
    links: list[tuple[int, ...]] = [()] * count
    dropped: Counter[str] = Counter(missing=count - len(records))
    for record in records:
        index = record["chunk_idx"]
        known = tuple(tag for tag in record["function_tags"] if tag in BY_NAME)
        dropped["unknown_tags"] += len(record["function_tags"]) - len(known)
        tags[index] = known or (UNKNOWN.name,)
        links[index] = read_links(record["depends_on"], index, count, dropped)
    return Labels(tuple(tags), tuple(links), "released", "", Dropped(**dropped))


def apply_labels(records: Sequence[Mapping[str, Any]], labels: Labels) -> list[dict[str, Any]]:
    """Released sentence records with these tags and links, everything else as it was.

    Raises:
        UserError: a record of a sentence that was not labelled.
    """
    done = []
    for record in records:
        index = record["chunk_idx"]
        if not 0 <= index < len(labels):
            raise _wrong(f"a record of sentence {index}", f"one of the {len(labels)} labelled")
        links = [str(link) for link in labels.depends_on[index]]
        done.append(
            dict(record) | {"function_tags": list(labels.tags[index]), "depends_on": links}
        )
    return done


def _wrong(found: str, expected: str) -> UserError:
    return UserError(found=found, expected=expected, do="label the trace again")
