"""Every state that a model of the protocol can reach, and the shortest way to one that breaks a promise."""

from collections import deque
from typing import NamedTuple

from tests.transforms.protocol_model import Model
from tests.transforms.protocol_records import Rules, Store, Version, World


def start(*digests: str) -> Store:
    """A dataset of one version."""
    parts = frozenset((digest, "first") for digest in digests)
    versions = frozenset({(1, Version("first", parts, ()))})
    return Store(parts, versions, frozenset(), frozenset(), frozenset(), frozenset(digests))


class Found(NamedTuple):
    states: int
    broken: str  # a promise
    steps: tuple[str, ...]  # the way there
    ends: tuple[World, ...]  # where nothing can happen any more


def explore(rules: Rules, world: World, promise: str = "") -> Found:
    """Visits every state that can be reached. Stops at the first that breaks a promise: `promise`, or any."""
    model = Model(rules)
    came: dict[World, tuple[World, str] | None] = {world: None}
    queue = deque([world])
    ends = []
    while queue:
        here = queue.popleft()
        moves = list(model.after(here))
        if not moves:
            ends.append(here)
        for label, there in moves:
            if there.broken and (not promise or there.broken == promise):
                return Found(len(came), there.broken, (*_way(came, here), label), ())
            there = there._replace(broken="")
            if there not in came:
                came[there] = (here, label)
                queue.append(there)
    return Found(len(came), "", (), tuple(ends))


def _way(came: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    steps: list[str] = []
    while (before := came[world]) is not None:
        world, label = before
        steps.append(label)
    return steps[::-1]
