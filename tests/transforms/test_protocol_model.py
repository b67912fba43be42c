"""No order of steps, stall, kill or second attempt breaks a promise of publishing; each rule is needed for that."""

from typing import Any

import pytest

from tests.transforms import exploration
from tests.transforms.exploration import explore, start
from tests.transforms.protocol_model import Model, Outcome
from tests.transforms.protocol_records import NEW, TODAYS, Process, Rules, World

LOST = "a published version lists a file that is not there"
FAILED = "a run that has published failed"
UNTRUE = "a run that says it published has not"
ERASED = "the work in progress of a live run was deleted"
TAKEN = "what a live run had found was deleted"
A_FOR_B = (Process("A", "A", ("Y",)), Process("B", "B", ("X",)))
"""On a version of X, A publishes Y, and B's input goes back to X, before or after."""
BACKFILL = (Process("A", "A", ("Y",)), Process("B", "B", ("Y", "Z")))
"""Both write Y; who comes second finds it. B writes Z besides."""
X, Z = ("X",), ("Z",)


@pytest.mark.parametrize(
    ("world", "promise"),
    [
        (World(start("X"), A_FOR_B, 0, 0), LOST),
        (World(start("X"), A_FOR_B[:1], 0, 1), FAILED),
        (World(start("X"), BACKFILL, 0, 0), ERASED),
        (World(start("X"), A_FOR_B[:1], 0, 0, (X, Z)), UNTRUE),
    ],
    ids=["a stalled clean-up", "a step tried again", "a backfill beside", "a number that is free again"],
)
def test_the_model_finds_what_was_wrong_with_the_rules_of_before(world: World, promise: str) -> None:
    found = explore(Rules(TODAYS), world, promise)
    assert found.broken == promise, found.states


@pytest.mark.parametrize("leases_run_out", [False, True])
@pytest.mark.parametrize("death_is_certain", [False, True])
@pytest.mark.parametrize(
    "world",
    [World(start("X"), A_FOR_B, 1, 0), World(start("X"), BACKFILL, 1, 0), World(start("X"), A_FOR_B[:1], 0, 1, (X,))],
    ids=["back", "backfill", "attempts"],
)
def test_two_runs_break_no_promise_whatever_stalls_or_is_killed(
    world: World, leases_run_out: bool, death_is_certain: bool
) -> None:
    rules = Rules(NEW, leases_run_out, death_is_certain)
    found = explore(rules, world)
    assert found.broken == "", found.steps
    assert found.states > 3000
    if death_is_certain and not leases_run_out:
        for end in found.ends:
            assert_nothing_is_left(rules, end)


def assert_nothing_is_left(rules: Rules, world: World) -> None:
    """Once nobody is alive, the next run leaves its own parts and nothing else: whoever was killed where."""
    last = Process("last", "last", ("X", "W"))
    world = world._replace(processes=(*world.processes, last), kills=0, retries=0, others=())
    model = Model(rules)
    while world.processes[-1].step:
        ((_, world),) = model.after(world)
    newest = world.store.version(world.store.newest)
    assert newest is not None and world.processes[-1].ended == "published"
    assert newest.parts == world.store.files
    assert (world.store.records, world.store.intents, world.store.leases) == (frozenset(),) * 3


@pytest.mark.parametrize(
    "world",
    [World(start("X"), A_FOR_B, 0, 0, (("Y", "Z"),)), World(start("X"), A_FOR_B[:1], 0, 1, (X, Z))],
    ids=["two and a short one", "two attempts and two short ones"],
)
def test_three_runs_break_no_promise(world: World) -> None:
    found = explore(Rules(NEW, leases_run_out=True, death_is_certain=False), world)
    assert found.broken == "", found.steps


class Without(Model):
    """The new rules but for one."""

    def __init__(self, rules: Rules, rule: str) -> None:
        super().__init__(rules)
        self.rule = rule
        if instead := getattr(self, f"_without_{rule.replace(' ', '_')}", None):
            self.steps[rule] = instead

    def _removed(self, world: World, p: Process) -> frozenset[str]:
        return frozenset() if self.rule == "records" else super()._removed(world, p)

    def _is_over(self, world: World, name: str) -> bool:
        return True if self.rule == "only the author closes" else super()._is_over(world, name)

    def _do_close(self, world: World, p: Process) -> list[Outcome]:
        if self.rule != "only the author closes":
            return super()._do_close(world, p)
        return [(world.store._replace(records=frozenset()), p.to("tidy"))]

    def _without_look_again_at_leases(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("look at intents", others=frozenset()))]

    def _without_look_at_intents(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("look at versions"))]

    def _without_look_at_versions(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("look who wants"))]

    def _without_look_who_wants(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("retire"))]

    def _without_check_newest(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("check records"))]

    def _without_check_files(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("create"))]

    def _without_look_if_published(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("remove intent"))]

    def _without_lease(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("check base"))]


@pytest.mark.parametrize(
    ("rule", "world", "leases_run_out"),
    [
        ("records", World(start("X"), A_FOR_B, 0, 0), False),
        ("only the author closes", World(start("X"), A_FOR_B, 0, 0), False),
        ("look again at leases", World(start("X"), A_FOR_B, 0, 0), False),
        ("look at intents", World(start("X"), BACKFILL, 1, 0), True),
        ("look at versions", World(start("X"), BACKFILL, 1, 0), True),
        ("look who wants", World(start("X"), A_FOR_B[:1], 0, 0, (X, Z)), False),
        ("check newest", World(start("X"), A_FOR_B[:1], 0, 0, (X, Z)), False),
        ("check files", World(start("X"), BACKFILL, 1, 0), True),
        ("look if published", World(start("X"), A_FOR_B[:1], 0, 1), False),
        ("lease", World(start("X"), BACKFILL, 0, 0), False),
    ],
)
def test_without_any_one_rule_a_promise_breaks(
    rule: str, world: World, leases_run_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(rules: Rules) -> Any:
        return Without(rules, rule)

    monkeypatch.setattr(exploration, "Model", without)
    found = explore(Rules(NEW, leases_run_out), world)
    assert found.broken in (LOST, FAILED, UNTRUE, ERASED, TAKEN), found.states
