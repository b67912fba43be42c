"""The protocol of publishing as a small model: what runs do to the store, one request at a time, in every order.

A state is what is in the store and how far each process is. From each state every process may take its next step, so a
stall of any length is an order in which others go first; it may be killed; an engine may try a publishing step again,
with the first attempt dead or alive. `exploration.explore` visits every state that can be reached.

The rules are the parameter: `TODAYS` as they were, and `NEW` (see `transforms.clean_up`). Steps are written as they are
in the code, and named for what they ask of the store.
"""

import dataclasses
from collections.abc import Callable, Iterator

from tests.transforms.protocol_records import BEFORE, NEW, Process, Rules, Store, Version, World

Outcome = tuple[Store, Process]


def names_of(digest: str) -> tuple[str, ...]:
    return (digest, f"{digest}-1", f"{digest}-2")


def digest_of(name: str) -> str:
    return name.partition("-")[0]


class Model:
    """The steps of a process. Each takes the world and one process, and returns the store and the process after it, one
    pair for each way it may go."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.steps: dict[str, Callable[[World, Process], list[Outcome]]] = {
            name.removeprefix("_do_").replace("_", " "): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    @property
    def new(self) -> bool:
        return self.rules.name == NEW

    # The run: what it does before it publishes.

    def _do_plan(self, world: World, p: Process) -> list[Outcome]:
        store = world.store
        old = frozenset(name for name, _ in store.files)
        return [(store, p.to("lease" if self.new else "finish", base=store.newest, gone=old))]

    def _do_finish(self, world: World, p: Process) -> list[Outcome]:
        """Today's rules: every record is a killed run's."""
        store = world.store
        for record in sorted(store.records):
            _, version, names = record
            ahead = any(v > store.newest for _, v in store.intents)
            if version == store.newest and not ahead:
                left = names & {n for n, _ in store.files}
                if left:
                    return [(_without_file(store, min(left)), p)]
            return [(store._replace(records=store.records - {record}), p)]
        return [(store, p.to("write"))]

    def _do_lease(self, world: World, p: Process) -> list[Outcome]:
        store = world.store
        return [(store._replace(leases=store.leases | {(p.run, p.base)}), p.to("check base"))]

    def _do_check_base(self, world: World, p: Process) -> list[Outcome]:
        if world.store.newest != p.base:
            return [(world.store, p.to("release", published=False))]
        return [(world.store, p.to("read records"))]

    def _do_read_records(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("write", removed=self._removed(world, p)))]

    def _removed(self, world: World, p: Process) -> frozenset[str]:
        return frozenset(n for who, _, names in world.store.records if not self._is_over(world, who) for n in names)

    def _do_write(self, world: World, p: Process) -> list[Outcome]:
        """The next block: carried over from the base version, found, or written (created where nothing is)."""
        store = world.store
        done = {digest_of(name) for name, _ in p.parts}
        left = [digest for digest in p.wants if digest not in done]
        if not left:
            return [(store, p.to("publish", removed=frozenset(), parts=tuple(sorted(p.parts))))]
        base = store.version(p.base)
        carried = [part for part in (base.parts if base else ()) if digest_of(part[0]) == left[0]]
        if carried:
            return [(store, p.to("write", parts=(*p.parts, carried[0])))]
        name = next(n for n in names_of(left[0]) if n not in p.removed)
        if found := store.content(name):
            return [(store, p.to("write", parts=(*p.parts, (name, found))))]
        written = (name, p.name)
        return [(store._replace(files=store.files | {written}), p.to("write", parts=(*p.parts, written)))]

    # Publishing.

    def _do_publish(self, world: World, p: Process) -> list[Outcome]:
        store = world.store
        newest = store.version(store.newest)
        if not self.new:
            return [(store, p.to("intent") if store.version(p.base) or not p.base else p.end("failed"))]
        if newest and p.run in (newest.run, *newest.lineage):
            return [(store, p.to("list versions", published=True))]
        return [(store, p.to("intent") if store.newest == p.base else p.to("release"))]

    def _do_intent(self, world: World, p: Process) -> list[Outcome]:
        store = world.store
        who = p.name if self.new else p.run
        step = "check newest" if self.new else "check records"
        return [(store._replace(intents=store.intents | {(who, p.base + 1)}), p.to(step))]

    def _do_check_newest(self, world: World, p: Process) -> list[Outcome]:
        return [(world.store, p.to("check records" if world.store.newest == p.base else "look if published"))]

    def _do_check_records(self, world: World, p: Process) -> list[Outcome]:
        doomed = self._removed(world, p) & {name for name, _ in p.parts}
        failed = "look if published" if self.new else "remove intent"
        return [(world.store, p.to(failed if doomed else "check files"))]

    def _do_check_files(self, world: World, p: Process) -> list[Outcome]:
        there = world.store.files if self.new else {(n, c) for n, c in p.parts if world.store.content(n)}
        failed = "look if published" if self.new else "remove intent"
        return [(world.store, p.to("create" if set(p.parts) <= set(there) else failed))]

    def _do_create(self, world: World, p: Process) -> list[Outcome]:
        store, number = world.store, p.base + 1
        if number in dict(store.versions):
            if self.new:
                return [(store, p.to("look if published"))]
            there = store.version(number)
            return [(store, p.to("remove intent", published=there is not None and there.run == p.run))]
        base = store.version(p.base)
        lineage = (*base.lineage, base.run) if base else ()
        version = Version(p.run, frozenset(p.parts), lineage)
        store = store._replace(
            versions=store.versions | {(number, version)}, ever=store.ever | {name for name, _ in p.parts}
        )
        return [(store, p.to("remove intent", published=True))]

    def _do_look_if_published(self, world: World, p: Process) -> list[Outcome]:
        """After any failure: another attempt may have done it."""
        newest = world.store.version(world.store.newest)
        mine = newest is not None and p.run in (newest.run, *newest.lineage)
        return [(world.store, p.to("remove intent", published=mine))]

    def _do_remove_intent(self, world: World, p: Process) -> list[Outcome]:
        who = p.name if self.new else p.run
        store = world.store._replace(intents=world.store.intents - {(who, p.base + 1)})
        if p.published:
            return [(store, p.to("list versions" if self.new else "old clean up"))]
        return [(store, p.to("release") if self.new else p.end("failed"))]

    def _do_release(self, world: World, p: Process) -> list[Outcome]:
        """The driver's, once no attempt goes on; an attempt that published releases the lease itself."""
        beside = any(q.step for q in world.processes if q.run == p.run and q.name != p.name)
        if beside and not p.published:
            return [(world.store, p.end("failed"))]
        leases = frozenset(lease for lease in world.store.leases if lease[0] != p.run)
        return [(world.store._replace(leases=leases), p.end("published" if p.published else "failed"))]

    # The clean-up, new rules.

    def _do_list_versions(self, world: World, p: Process) -> list[Outcome]:
        known = tuple(sorted(n for n, v in world.store.versions if v))
        return [(world.store, p.to("list files", known=known))]

    def _do_list_files(self, world: World, p: Process) -> list[Outcome]:
        kept = world.store.version(p.known[-1])
        listed = {name for name, _ in kept.parts} if kept else set()
        unlisted = frozenset(name for name, _ in world.store.files if name not in listed)
        return [(world.store, p.to("list gone", seen=unlisted))]

    def _do_list_gone(self, world: World, p: Process) -> list[Outcome]:
        older = [world.store.version(n) for n in p.known[:-1]]
        gone = {name for v in older if v for name, _ in v.parts}
        gone |= {name for _, _, names in world.store.records for name in names}
        return [(world.store, p.to("look at leases", gone=frozenset(gone)))]

    def _do_look_at_leases(self, world: World, p: Process) -> list[Outcome]:
        outcomes = []
        for alive in self._alive(world, p):
            others = frozenset(run for run, _ in alive)
            if any(base >= p.known[-1] for _, base in alive):
                outcomes.append((world.store, p.to("release")))
            else:
                doomed = frozenset(name for name in p.seen if name in p.gone or not alive)
                outcomes.append((world.store, p.to("put record", others=others, seen=doomed, gone=frozenset())))
        return outcomes

    def _alive(self, world: World, p: Process) -> list[frozenset[tuple[str, int]]]:
        """Other runs' leases that may be taken for alive: each way that this may come out."""
        ways: list[frozenset[tuple[str, int]]] = [frozenset()]
        for lease in sorted(world.store.leases):
            if lease[0] == p.run:
                continue
            dead = not any(q.step for q in world.processes if q.run == lease[0])
            with_it = [way | {lease} for way in ways]
            if dead and self.rules.death_is_certain:
                continue
            ways = [*ways, *with_it] if dead or self.rules.leases_run_out else with_it
        return ways

    def _do_put_record(self, world: World, p: Process) -> list[Outcome]:
        record = (p.name, p.known[-1], frozenset(p.seen))
        return [(world.store._replace(records=world.store.records | {record}), p.to("look again at leases"))]

    def _do_look_again_at_leases(self, world: World, p: Process) -> list[Outcome]:
        came = {bool({run for run, _ in alive} - p.others) for alive in self._alive(world, p)}
        p = dataclasses.replace(p, others=frozenset())
        return [(world.store, p.to("close", seen=frozenset()) if new else p.to("look at intents")) for new in came]

    def _do_look_at_intents(self, world: World, p: Process) -> list[Outcome]:
        ahead = any(v > p.known[-1] and not self._is_over(world, who) for who, v in world.store.intents)
        return [(world.store, p.to("close" if ahead else "look at versions", seen=frozenset() if ahead else p.seen))]

    def _do_look_at_versions(self, world: World, p: Process) -> list[Outcome]:
        moved = world.store.newest != p.known[-1]
        return [(world.store, p.to("close" if moved else "look who wants", seen=frozenset() if moved else p.seen))]

    def _do_look_who_wants(self, world: World, p: Process) -> list[Outcome]:
        wanted = frozenset(v for who, v in world.store.intents if not self._is_over(world, who))
        return [(world.store, p.to("retire", wanted=wanted))]

    def _do_retire(self, world: World, p: Process) -> list[Outcome]:
        versions = {(n, v) for n, v in world.store.versions if n not in p.known[:-1]}
        versions |= {(n, None) for n in p.known[:-1] if n in p.wanted}
        return [(world.store._replace(versions=frozenset(versions)), p.to("delete", known=(), wanted=frozenset()))]

    def _do_delete(self, world: World, p: Process) -> list[Outcome]:
        if not p.seen:
            return [(world.store, p.to("close" if self.new else "remove record"))]
        name = min(p.seen)
        return [(_without_file(world.store, name), p.to("delete", seen=p.seen - {name}))]

    def _do_close(self, world: World, p: Process) -> list[Outcome]:
        over = {r for r in world.store.records if r[0] == p.name or self._is_over(world, r[0])}
        return [(world.store._replace(records=world.store.records - over), p.to("tidy"))]

    def _do_tidy(self, world: World, p: Process) -> list[Outcome]:
        store = world.store
        intents = frozenset(i for i in store.intents if not self._is_over(world, i[0]))
        wanted = {v for _, v in intents}
        versions = frozenset((n, v) for n, v in store.versions if v or n in wanted)
        at_work = {q.run for q in world.processes if q.step}
        leases = frozenset(le for le in store.leases if le[0] in at_work or not self.rules.death_is_certain)
        return [(store._replace(intents=intents, versions=versions, leases=leases), p.to("release"))]

    def _is_over(self, world: World, name: str) -> bool:
        return self.rules.death_is_certain and any(q.name == name and q.ended == "killed" for q in world.processes)

    # The clean-up, today's rules.

    def _do_old_clean_up(self, world: World, p: Process) -> list[Outcome]:
        store = world.store
        known = sorted(n for n, v in store.versions if v)
        kept = store.version(known[-1])
        listed = {name for name, _ in kept.parts} if kept else set()
        doomed = frozenset(n for n, _ in store.files if n not in listed and n in p.gone)
        store = store._replace(versions=frozenset((n, v) for n, v in store.versions if n == known[-1]))
        return [(store, p.to("old record", known=(known[-1],), seen=doomed))]

    def _do_old_record(self, world: World, p: Process) -> list[Outcome]:
        if not p.seen:
            return [(world.store, p.end("published"))]
        record = ("", p.known[0], frozenset(p.seen))
        return [(world.store._replace(records=world.store.records | {record}), p.to("old look"))]

    def _do_old_look(self, world: World, p: Process) -> list[Outcome]:
        free = world.store.newest == p.known[0] and not any(v > p.known[0] for _, v in world.store.intents)
        return [(world.store, p.to("delete", seen=p.seen if free else frozenset()))]

    def _do_remove_record(self, world: World, p: Process) -> list[Outcome]:
        records = frozenset(r for r in world.store.records if r[:2] != ("", p.known[0]))
        return [(world.store._replace(records=records), p.end("published"))]

    # All that may happen next.

    def after(self, world: World) -> Iterator[tuple[str, World]]:
        if any(p.step for p in world.processes):
            yield from self._other(world)
        for place, p in enumerate(world.processes):
            if not p.step:
                continue
            for store, q in self.steps[p.step](world, p):
                yield f"{p.name}: {p.step}", self._judged(world, place, store, q)
            if world.kills:
                killed = self._judged(world, place, world.store, p.end("killed"))
                yield f"{p.name}: killed", killed._replace(kills=world.kills - 1)
            if world.retries and p.step not in BEFORE:
                gone = frozenset() if self.new else p.gone
                again = Process(f"{p.name}'", p.run, p.wants, "publish", base=p.base, parts=p.parts, gone=gone)
                left = world._replace(retries=world.retries - 1)
                yield f"{p.name}: another attempt", left._replace(processes=(*world.processes, again))
                killed = left._replace(processes=(*world.processes, again))
                yield f"{p.name}: killed, another attempt", self._judged(killed, place, world.store, p.end("killed"))

    def _other(self, world: World) -> Iterator[tuple[str, World]]:
        """A whole run between two steps of everybody else's: what short runs beside long ones do."""
        for wants in dict.fromkeys(world.others):
            name = f"O{len(world.others)}"
            left = list(world.others)
            left.remove(wants)
            place = len(world.processes)
            there = world._replace(processes=(*world.processes, Process(name, name, wants)), others=tuple(left))
            while there.processes[place].step and not there.broken:
                p = there.processes[place]
                store, q = self.steps[p.step](there, p)[0]
                there = self._judged(there, place, store, q)
            there = there._replace(processes=there.processes[:place]) if not there.broken else there
            yield f"{name}: a whole run that wants {wants}", there

    def _judged(self, before: World, place: int, store: Store, p: Process) -> World:
        processes = (*before.processes[:place], p, *before.processes[place + 1 :])
        world = before._replace(store=store, processes=processes)
        return world._replace(broken=self._broken(before, world, p))

    def _broken(self, before: World, world: World, p: Process) -> str:
        store = world.store
        newest = store.version(store.newest)
        if newest and not newest.parts <= store.files:
            return "a published version lists a file that is not there"
        included = newest is not None and p.run in (newest.run, *newest.lineage)
        over = not any(q.step for q in world.processes if q.run == p.run)  # only then its driver says how it ended
        if p.ended == "failed" and included and over and self.new:
            return "a run that has published failed"
        if p.ended == "failed" and included and not self.new:
            return "a run that has published failed"
        if p.ended == "published" and not included:
            return "a run that says it published has not"
        deleted = before.store.files - store.files
        for q in world.processes:
            if self.new and q.step and q.run != p.run and q.base == store.newest and deleted & set(q.parts):
                return "" if self.rules.leases_run_out else "what a live run had found was deleted"
        # A name that some version listed is that version's, and goes with it, whoever wrote it anew.
        for name, content in deleted:
            writer = next((q for q in world.processes if q.name == content), None)
            if writer is None or not newest or name in store.ever:
                continue
            at_work = any(q.step for q in world.processes if q.run == writer.run)
            done = writer.run in (p.run, newest.run, *newest.lineage)
            if at_work and not done and not self.rules.leases_run_out:
                return "the work in progress of a live run was deleted"
        return ""


def _without_file(store: Store, name: str) -> Store:
    return store._replace(files=frozenset(f for f in store.files if f[0] != name))
