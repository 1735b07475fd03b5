"""Each rule of docs/protocol.md that can be switched off, switched off once, and where that must be missed.

Owns the table; what each mutant does otherwise is in `switched_off`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.model import switched_off as off
from tests.model.code import Code
from tests.model.model import Config


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """``rule``: its number; ``catches``: how what is violated begins."""

    rule: int
    says: str
    apply: Callable[[Code], None]
    config: Config
    catches: str
    states: int = 20_000


def _config(total: int, /, **more: object) -> Config:
    faults = {name: total for name in str(more.pop("faults")).split(", ")}
    return Config(total=total, faults=faults, **more)  # type: ignore[arg-type]


MUTANTS: dict[str, Mutant] = {
    "no epoch guard": Mutant(
        rule=1,
        says="a deposed dispatcher's append is stored",
        apply=off.with_flags(epoch_guard=False),
        config=_config(2, faults="election"),
        catches="I3",
    ),
    "acknowledgement releases": Mutant(
        rule=1,
        says="a decision holds nothing once it is acknowledged",
        apply=off.with_flags(remembers_sent=False),
        config=_config(1, faults="submit"),
        catches="I2",
    ),
    "free on silence": Mutant(
        rule=6,
        says="NodeLost ends the attempts of its node",
        apply=off.with_evolve(off.free_on_silence),
        config=_config(1, faults="silence"),
        catches="I3",
    ),
    "late ends count": Mutant(
        rule=7,
        says="an end after the attempt's first ends the run",
        apply=off.with_evolve(off.takes_late_ends),
        config=_config(3, faults="silence, remove"),
        catches="",
    ),
    "cancel dropped by a grant": Mutant(
        rule=3,
        says="Dispatched clears cancel_requested",
        apply=off.with_evolve(off.forgets_cancel),
        config=_config(1, faults="cancel", hang=True),
        catches="I1",
    ),
    "want of memory is no signal": Mutant(
        rule=4,
        says="`signal` in `retry.on` does not cover out_of_memory",
        apply=off.with_evolve(off.ends_for_want_of_memory),
        config=_config(1, faults="memory"),
        catches="rule 4",
    ),
    "lists are ignored": Mutant(
        rule=8,
        says="what a NodeJoined lacks is not ended",
        apply=off.with_evolve(off.ignores_lists),
        config=_config(2, faults="crash, wipe"),
        catches="I1",
    ),
    "listed and ended is not stopped": Mutant(
        rule=8,
        says="no Stopping for what a NodeJoined lists and the log has ended",
        apply=off.with_evolve(off.owes_no_stopping),
        config=_config(2, faults="silence, remove", hang=True),
        catches="I1",
    ),
    "launch below NodeJoined": Mutant(
        rule=8,
        says="a grant of an earlier session is launched",
        apply=off.with_session(off.launches_old_grants),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "older slots are taken": Mutant(
        rule=8,
        says="slots that were chosen by what the node had before its last join are launched on",
        apply=off.with_session(off.takes_older_slots),
        config=_config(1, faults="crash", runs=2, devices=2, slots_per_gpu=(1, 2)),
        catches="I2",
    ),
    "no session fence": Mutant(
        rule=8,
        says="an agent that was counted lost does not join again",
        apply=off.with_session(off.stays_when_lost),
        config=_config(1, faults="silence"),
        catches="I1",
    ),
    "no sweep": Mutant(
        rule=8,
        says="what is not listed is not ended before the join",
        apply=off.with_flags(sweeps=False),
        config=_config(2, faults="crash, wipe"),
        catches="I3",
    ),
    "removal is not read": Mutant(
        rule=8,
        says="an incarnation that was removed joins with its workers",
        apply=off.with_session(off.ignores_removal),
        config=_config(2, faults="silence, remove"),
        catches="I3",
    ),
    "late folders launch": Mutant(
        rule=10,
        says="an attempt that was closed is launched when the storage of its folder answers, and its shim does not look",
        apply=off.both(off.with_session(off.launches_whatever_has_folders), off.with_flags(looks=False)),
        config=_config(1, faults="cancel", slow_storage=True),
        catches="I3",
    ),
    "lock not taken": Mutant(
        rule=9,
        says="a shim is started and buried without the lock",
        apply=off.with_flags(lock=False),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "shim does not look": Mutant(
        rule=9,
        says="a shim with the lock does not look at exit.json",
        apply=off.with_flags(looks=False),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "shim makes its folder": Mutant(
        rule=9,
        says="a late shim makes the folder that was wiped, and nothing sweeps it",
        apply=off.with_flags(makes_folder=True, sweeps=False),
        config=_config(2, faults="crash, wipe"),
        catches="I3",
    ),
    "folders do not stay": Mutant(
        rule=9,
        says="the folder goes with the acknowledged end, and what comes again is known by it alone",
        apply=off.both(off.with_flags(keeps_folders=False), off.with_session(off.forgets_what_it_took)),
        config=_config(1, faults="duplicate"),
        catches="I3",
    ),
    "tree left behind": Mutant(
        rule=5,
        says="the end is written when the worker is gone, and its tree is not",
        apply=off.writes_ends_early,
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "acknowledged before it is written": Mutant(
        rule=10,
        says="a decision is acknowledged before its file is written",
        apply=off.with_session(off.acknowledges_first),
        config=_config(1, faults="full"),
        catches="I1",
    ),
    "launch over a tree": Mutant(
        rule=5,
        says="a slot is free to the agent when the log says so",
        apply=off.with_session(off.launches_over_a_tree),
        config=_config(2, faults="silence, remove", runs=2),
        catches="I2",
    ),
    "name not read": Mutant(
        rule=11,
        says="a second state folder joins under the name of the first",
        apply=off.with_flags(reads_name=False),
        config=_config(1, faults="crash", machines=(("n", "a"), ("n", "b"))),
        catches="I",
    ),
    "join not guarded": Mutant(
        rule=11,
        says="a NodeJoined is stored beside another's",
        apply=off.with_flags(join_guard=False),
        config=_config(2, faults="silence, remove", machines=(("n", "a"), ("n", "b"))),
        catches="I",
    ),
    "incarnation not checked": Mutant(
        rule=11,
        says="an agent takes what is another incarnation's",
        apply=off.with_session(off.takes_every_incarnation),
        config=_config(2, faults="silence, remove", machines=(("n", "a"), ("n", "b"))),
        catches="I",
    ),
    "removal counts while up": Mutant(
        rule=12,
        says="NodeRemoved, not guarded, ends the attempts of a node that is back",
        apply=off.both(off.with_evolve(off.removes_what_is_up), off.with_flags(remove_guard=False)),
        config=_config(3, faults="silence, remove, timeout"),
        catches="I1",
    ),
    "removal ends nothing": Mutant(
        rule=12,
        says="the attempts of a machine that was removed stay",
        apply=off.with_evolve(off.removal_ends_nothing),
        config=_config(2, faults="new disk, crash"),
        catches="I1",
    ),
    "leave not guarded": Mutant(
        rule=8,
        says="a NodeLeft of an older session is stored after the next join",
        apply=off.with_flags(left_guard=False),
        config=_config(2, faults="leave, timeout"),
        catches="I1",
    ),
    "left counts as empty": Mutant(
        rule=11,
        says="the name of a node that left with attempts is free",
        apply=off.with_session(off.takes_every_leave_for_empty),
        config=_config(1, faults="leave", machines=(("n", "a"), ("n", "b"))),
        catches="I1",
    ),
    "several deliveries at a time": Mutant(
        rule=10,
        says="Stopping is delivered before Dispatched, and passed over",
        apply=off.both(off.with_session(off.passes_over_unseen_stops), off.with_flags(in_order=False)),
        config=_config(1, faults="cancel", hang=True),
        catches="I1",
    ),
    "stop acknowledged before it is written": Mutant(
        rule=10,
        says="Stopping is acknowledged before stop.json is written",
        apply=off.with_session(off.acknowledges_first),
        config=_config(2, faults="cancel, full", hang=True),
        catches="I1",
    ),
    "stop is not owed again": Mutant(
        rule=10,
        says="a join does not make a Stopping owed again that came before it",
        apply=off.with_evolve(off.keeps_told_stops),
        config=_config(3, faults="cancel, crash, consumer", hang=True),
        catches="I1",
    ),
    "trees of killed shims stay": Mutant(
        rule=14,
        says="what a killed shim's worker left is not swept",
        apply=off.with_flags(buries_trees=False),
        config=_config(1, faults="kill"),
        catches="I3",
    ),
    "join lists nothing": Mutant(
        rule=8,
        says="NodeJoined does not carry the attempts that the agent has",
        apply=off.with_session(off.lists_nothing),
        config=_config(1, faults="crash"),
        catches="I3",
    ),
    "unknown is failed": Mutant(
        rule=2,
        says="a dispatcher whose append was not answered goes on as if it was not stored",
        apply=off.with_flags(stands_again=False),
        config=_config(2, faults="timeout, submit"),
        catches="I2",
    ),
    "older epochs count": Mutant(
        rule=15,
        says="evolve takes a deposed dispatcher's word, and nothing guards it",
        apply=off.both(off.with_evolve(off.takes_every_epoch), off.with_flags(epoch_guard=False)),
        config=_config(2, faults="election, submit"),
        catches="I2",
    ),
    "older decisions carried over": Mutant(
        rule=1,
        says="what was decided before an election is appended after it",
        apply=off.with_flags(clears_queue=False),
        config=_config(3, faults="timeout, election, submit"),
        catches="I2",
    ),
    "left grants are not ended": Mutant(
        rule=8,
        says="a grant on its way to an agent that left stays",
        apply=off.with_evolve(off.forgets_upto),
        config=_config(1, faults="leave", machines=(("n", "a"), ("o", "c")), stays_away=True),
        catches="I1",
    ),
    "grants after a removal stay": Mutant(
        rule=18,
        says="a grant to an incarnation that was removed is nobody's to end",
        apply=off.with_evolve(off.removal_closes_nothing),
        config=Config(
            machines=(("n", "a"), ("o", "c")), stays_away=True, total=2, faults={"leave": 1, "remove": 1}
        ),
        catches="I1",
    ),
    "forgets who holds": Mutant(
        rule=18,
        says="a node on loan is forgotten as it leaves, whatever it holds",
        apply=off.with_evolve(off.forgets_who_holds),
        config=_config(1, faults="leave", borrowed=True),
        catches="I3",
    ),
    "what was refused is forgotten": Mutant(
        rule=10,
        says="a grant that could not be written down and comes again is launched, though its end is stored",
        apply=off.with_session(off.forgets_what_it_refused),
        config=_config(2, faults="full, duplicate"),
        catches="I3",
    ),
    "a word of before is objected to": Mutant(
        rule=20,
        says="an attempt is launched whose end an earlier process told, and its word taken for a forger's",
        apply=off.both(off.with_flags(objects=True), off.with_session(off.forgets_what_it_took)),
        config=_config(2, faults="vanish, duplicate"),
        catches="rule 20",
    ),
    "what was taken is forgotten": Mutant(
        rule=9,
        says="a grant that comes again is launched where its folder has vanished, though its end is stored",
        apply=off.with_session(off.forgets_what_it_took),
        config=_config(2, faults="vanish, duplicate"),
        catches="I3",
    ),
    "not started counts after Started": Mutant(
        rule=9,
        says="an agent that finds no started.json any more queues a run again that the log has Started of",
        apply=off.with_evolve(off.requeues_what_started),
        config=_config(3, faults="vanish, crash, kill"),
        catches="rule 9",
    ),
    "a GPU that is cut anew is shared": Mutant(
        rule=5,
        says="who was granted a GPU whole shares it once its node has more slots of it",
        apply=off.with_evolve(off.shares_everything),
        config=_config(1, faults="crash", runs=2, slots_per_gpu=(1, 2)),
        catches="I2",
    ),
    "whole is what the slots say": Mutant(
        rule=5,
        says="a run that wants its GPU whole, and was granted it by an older inventory, has the slots that it names",
        apply=off.with_evolve(off.shares_by_slots),
        config=_config(2, faults="crash, timeout", runs=2, slots_per_gpu=(1, 2)),
        catches="I2",
    ),
    "a node that was tried is avoided for ever": Mutant(
        rule=19,
        says="a run is granted no node that could not start it, also where no other could hold it",
        apply=off.with_flags(may_grant=off.not_where_it_was_tried),
        config=_config(1, faults="kill"),
        catches="I1",
    ),
    "a suspect is granted nothing": Mutant(
        rule=19,
        says="no run is granted to a suspect node as a probe",
        apply=off.with_flags(may_grant=off.not_to_suspects),
        config=_config(1, faults="kill", blamed=2),
        catches="I1",
    ),
    "what a restart closes is blamed": Mutant(
        rule=19,
        says="a node is blamed for what was in flight when its agent started, and for what was granted before its join",
        apply=off.both(
            off.with_flags(blames_what_it_finds=True), off.with_evolve(off.blames_for_older_grants)
        ),
        config=_config(1, faults="crash"),
        catches="rule 19",
    ),
    "blame outlives a join": Mutant(
        rule=19,
        says="a node that joins anew stays blamed",
        apply=off.with_evolve(off.blames_over_a_join),
        config=_config(1, faults="silence", blamed=2),
        catches="rule 19",
    ),
    "forgotten grants stay": Mutant(
        rule=18,
        says="a grant to a node that was forgotten is nobody's to end",
        apply=off.with_evolve(off.knows_whom_it_grants),
        config=_config(1, faults="leave", machines=(("n", "a"), ("o", "c")), borrowed=True, stays_away=True),
        catches="I1",
    ),
    "a held slot is granted again": Mutant(
        rule=5,
        says="the dispatcher grants what is held to an attempt that no run has, so that evolve passes it over",
        apply=off.with_flags(also_decides=off.grants_what_is_held),
        config=_config(1, faults="submit"),
        catches="I2: slot n.0 was granted to run r2 attempt 2, which does not count",
    ),
    "ends what is not granted": Mutant(
        rule=8,
        says="the dispatcher ends an attempt that was never granted",
        apply=off.with_flags(also_decides=off.ends_what_is_not_granted),
        config=_config(1, faults="crash"),
        catches="I9: failed from the dispatcher on run r1 attempt 2: it was never granted",
    ),
    "an agent speaks of another attempt": Mutant(
        rule=13,
        says="an agent's words are of the attempt after the one that it has",
        apply=off.with_flags(says=off.says_of_the_next),
        config=_config(1, faults="crash"),
        catches="I9: started from n on run r1 attempt 2: it was never granted",
    ),
}
