"""How far two labellings of one trace agree, beside what would agree without reading."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from interp_jax.runtime.errors import UserError
from interp_jax.studies.thought_anchors.labels.labels import Labels
from interp_jax.studies.thought_anchors.labels.taxonomy import BY_NAME


@dataclass(frozen=True)
class TagAgreement:
    """One tag: how many sentences each side gave it, and how many both did."""

    ours: int
    theirs: int
    both: int

    @property
    def precision(self) -> float:
        """Share of ours that theirs have too; NaN when we gave none."""
        return _share(self.both, self.ours)

    @property
    def recall(self) -> float:
        """Share of theirs that we found; NaN when they gave none."""
        return _share(self.both, self.theirs)


@dataclass(frozen=True)
class LinkAgreement:
    """Dependencies as directed pairs: how many each side has, and how many both have."""

    ours: int
    theirs: int
    both: int

    @property
    def precision(self) -> float:
        """Share of our links that theirs have; NaN when we have none."""
        return _share(self.both, self.ours)

    @property
    def recall(self) -> float:
        """Share of their links that we found; NaN when they have none."""
        return _share(self.both, self.theirs)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; NaN when there are no links at all."""
        return _share(2 * self.both, self.ours + self.theirs)


@dataclass(frozen=True)
class Agreement:
    """Agreement on the main tags and on the dependencies of S sentences.

    Attributes:
        sentences: S.
        accuracy: share of sentences with the same main tag.
        kappa: Cohen's kappa of the main tags: 0 is what two independent labellers with these tag
            shares would reach, 1 is perfect. NaN when both use one and the same tag throughout.
        commonest: accuracy of giving their commonest tag to every sentence.
        tags: by tag, for every tag of the taxonomy.
        links: of the dependencies.
        far: of those that reach further back than the sentence before.
        previous: of linking every sentence to the one before it.
    """

    sentences: int
    accuracy: float
    kappa: float
    commonest: float
    tags: dict[str, TagAgreement]
    links: LinkAgreement
    far: LinkAgreement
    previous: LinkAgreement

    def table(self) -> str:
        """Everything as lines of text."""
        lines = [
            f"{self.sentences} sentences: accuracy {self.accuracy:.3f} (commonest tag "
            f"{self.commonest:.3f}), kappa {self.kappa:.3f}",
            f"{'tag':<24}{'ours':>6}{'theirs':>8}{'both':>6}{'precision':>11}{'recall':>8}",
        ]
        for name, tag in self.tags.items():
            lines.append(
                f"{name:<24}{tag.ours:>6}{tag.theirs:>8}{tag.both:>6}{tag.precision:>11.2f}"
                f"{tag.recall:>8.2f}"
            )
        named = {
            "links": self.links, "further back": self.far, "all to the one before": self.previous,
        }
        for name, links in named.items():
            lines.append(
                f"{name:<24}{links.ours:>6}{links.theirs:>8}{links.both:>6}"
                f"{links.precision:>11.2f}{links.recall:>8.2f}  F1 {links.f1:.2f}"
            )
        return "\n".join(lines)


def agreement(ours: Labels, theirs: Labels) -> Agreement:
    """Compares two labellings; `labels_of_records` makes one of released records.

    Raises:
        UserError: no sentences, or another number of them.
    """
    count = len(ours)
    if count != len(theirs) or not count:
        raise UserError(
            found=f"labels of {count} and of {len(theirs)} sentences",
            expected="two labellings of one trace",
            do="label the sentences of the other one",
        )
    pairs = Counter(zip(ours.main, theirs.main, strict=True))
    mine, other = Counter(ours.main), Counter(theirs.main)
    same = sum(number for (one, two), number in pairs.items() if one == two)
    chance = sum(mine[name] * other[name] for name in BY_NAME) / count**2
    observed = same / count
    return Agreement(
        sentences=count,
        accuracy=observed,
        kappa=math.nan if chance == 1.0 else (observed - chance) / (1.0 - chance),
        commonest=max(other.values()) / count,
        tags={
            name: TagAgreement(mine[name], other[name], pairs[name, name]) for name in BY_NAME
        },
        links=_links(ours.links, theirs.links),
        far=_links(_far(ours.links), _far(theirs.links)),
        previous=_links(frozenset((i, i - 1) for i in range(1, count)), theirs.links),
    )


def _links(ours: frozenset[tuple[int, int]], theirs: frozenset[tuple[int, int]]) -> LinkAgreement:
    return LinkAgreement(len(ours), len(theirs), len(ours & theirs))


def _far(links: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    return frozenset((later, earlier) for later, earlier in links if later - earlier > 1)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
