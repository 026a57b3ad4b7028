"""How many labels clients may give: a pure function over who gave what.

    allowed[n] is True if label n fits

A limit is max(START, share x labelled images): it counts only what was taken, never what was offered, so that a flood
does not raise its own limit.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

START = 20  # images that each client and each source may label however few labels exist


class Offer(NamedTuple):
    """One label of a client, about image `id`, which came from `source`."""

    id: str
    source: str | None
    client: str | None


def within_quota(offered: Sequence[Offer], earlier: Sequence[Offer], labelled: Collection[str], share: float) -> list:
    """(N,) bool: which of N labels fit, in their order.

    earlier: labels of clients that were taken. labelled: ids of all labelled images. A further label of an image by
    the same client costs nothing. The result is the least that a repeated check allows: each label that fits raises the
    limits of others.
    """
    by_client: dict[str | None, set[str]] = defaultdict(set)
    by_source: dict[str | None, set[str]] = defaultdict(set)
    all_images = set(labelled)

    def count(one: Offer) -> None:
        by_client[one.client].add(one.id)
        by_source[one.source].add(one.id)
        all_images.add(one.id)

    for one in earlier:
        count(one)
    allowed, again = [False] * len(offered), True
    while again:
        again = False
        for number, one in enumerate(offered):
            if allowed[number]:
                continue
            limit = max(START, int(share * len(all_images)))
            groups = by_client[one.client], by_source[one.source]
            if all(one.id in group or len(group) < limit for group in groups):
                count(one)
                allowed[number] = again = True
    return allowed
