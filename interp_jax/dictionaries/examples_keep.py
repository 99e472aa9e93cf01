"""Which examples stay: in each group the first n by order, at most one of a document.

Groups are (latent, band) pairs. An example that lost its place had n documents before it in its
group, and these only move forward; so it can never be needed again, and keeping the first n after
each batch, or of two collections together, is keeping the first n of everything. The same holds
when groups are united.
"""

from __future__ import annotations

import numpy as np


def first_of_groups(
    group: np.ndarray, order: tuple[np.ndarray, ...], document: np.ndarray, count: int
) -> np.ndarray:
    """Which of E examples stay.

    Args:
        group: int64 [E], 0 to 2^32 - 1.
        order: arrays [E], the smallest first; the first array, uint32, decides, the next ones
            and at last the document at ties.
        document: int64 [E]; of one document in a group only its first example can stay.
        count: n.

    Returns:
        int64, indices of the ones that stay, sorted by group, then by order.
    """
    # One number decides nearly always, and sorting by one is several times faster than by five.
    coarse = (group.astype(np.uint64) << np.uint64(32)) | order[0].astype(np.uint64)
    ranked = np.argsort(coarse)
    tied = _equal_to_a_neighbour(coarse[ranked])
    if tied.any():
        some = ranked[tied]
        rest = (document[some], *(part[some] for part in reversed(order[1:])), coarse[some])
        ranked[tied] = some[np.lexsort(rest)]
    ranked = _first_of_documents(ranked, group, document)
    return ranked[place_in_group(group[ranked]) < count]


def _first_of_documents(ranked: np.ndarray, group: np.ndarray, document: np.ndarray) -> np.ndarray:
    stirred = mixed(group, document)
    ordered = np.sort(stirred)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return ranked
    place = np.flatnonzero(np.isin(stirred[ranked], again))
    some = ranked[place]
    by_document = np.lexsort((place, document[some], group[some]))
    some, place = some[by_document], place[by_document]
    later = np.zeros(len(some), bool)
    later[1:] = (np.diff(group[some]) == 0) & (np.diff(document[some]) == 0)
    return np.delete(ranked, place[later])


def _equal_to_a_neighbour(ordered: np.ndarray) -> np.ndarray:
    same = ordered[1:] == ordered[:-1]
    return np.append(same, False) | np.append(False, same)


def place_in_group(group: np.ndarray) -> np.ndarray:
    """int64 [E]: how many equal entries stand before each, of sorted `group`."""
    if not len(group):
        return np.zeros(0, np.int64)
    new = np.ones(len(group), bool)
    new[1:] = np.diff(group) != 0
    starts = np.flatnonzero(new)
    return np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))


def mixed(*parts: np.ndarray | int) -> np.ndarray:
    """uint64: integers of 64 bits stirred into one that looks random (the finaliser of
    splitmix64, Steele, Lea and Flood 2014, once for each part)."""
    total = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            x = total + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total = x ^ (x >> np.uint64(31))
    return total
