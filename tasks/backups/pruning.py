"""Remove the dated backups of one target that nobody needs any more, with the registry kept true; what the step does in a thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks.backups import dated, history
from tasks.backups import manifest as manifests
from tasks.backups.dated import Dated
from tasks.backups.history import DatedNotes
from tasks.backups.keeper import Keeper
from tasks.backups.retention import Candidate, Retention, decide
from tasks.backups.source import Target, many, mib
from tasks.clock import now, spoken, zone
from tasks.errors import Damaged, FleetError, Refused

SHOWN = 5
"""Targets or files named in a sentence; of more there is the number."""


@dataclass(frozen=True)
class Pruned:
    """What became of one target's dated backups."""

    target: Target
    removed: int = 0
    kept: int = 0
    """Of them on the disk now, whole; those that wait among them."""
    waiting: int = 0
    """Kept only because nothing newer is proven."""
    freed: int = 0
    """Bytes."""
    used: int = 0
    """Bytes that the target's backups take, the latest among them; links of each other count once."""
    remarks: tuple[str, ...] = ()
    """What somebody's hand or a wrong clock did, one phrase each."""
    error: FleetError | None = None
    """Why nothing, or not everything, could be removed."""


def prune(keeper: Keeper, target: Target, latest: Path, retention: Retention, keep_dated: bool = True) -> Pruned:
    """Remove what the numbers do not ask for and a newer, proven backup stands for. Run again after a kill, it goes on.

    Args:
        keeper: who asks.
        target: whose dated backups.
        latest: the file of the latest one.
        retention: the numbers.
        keep_dated: whether the policy keeps dated files; if so, the latest is given its own if it has none.

    Raises:
        Conflict: a backup of the target is under way.
        FleetError: the disk refused.
    """
    with keeper.hold(target.lock, f"pruning of {target.spoken}"):
        history.settle(keeper.engine, target, latest)
        if keep_dated:
            dated.settle(latest, target)
        else:
            dated.sweep(latest)
        ours = [one for one in dated.listed(latest) if one.manifest.target == target.key]
        notes = history.note_dated(keeper.engine, target, latest, ours)
        whole = [one for one in ours if one.whole]
        newest = _latest(latest)
        twin = dated.dated_path(latest, target, newest.manifest) if newest else None
        said = history.verdicts(keeper.engine, target)
        candidates = [_candidate(one, said) for one in whole]
        if newest and twin not in [one.path for one in whole]:
            twin = newest.path
            candidates.append(_candidate(newest, said))
        moment = now()
        plan = decide(candidates, retention, zone(keeper.time_zone), moment, str(twin))
        remarks = _remarks(latest, ours, notes, moment, keeper.time_zone)
        freed = 0
        leaving = [one for one in reversed(whole) if str(one.path) in plan.remove]
        for one in leaving:
            history.prunes(keeper.engine, target, one)
            freed += dated.remove(one)
            history.pruned(keeper.engine, target, one)
        return Pruned(
            target,
            removed=len(leaving),
            kept=len(whole) - len(leaving),
            waiting=len(plan.wait),
            freed=freed,
            used=dated.used_bytes(latest),
            remarks=remarks,
        )


def _latest(latest: Path) -> Dated | None:
    """The latest backup itself, if it is whole: it proves as much as a dated one does."""
    try:
        made = manifests.read(latest)
    except Damaged:
        return None
    found = Dated(latest, made) if made else None
    return found if found and found.whole else None


def _candidate(one: Dated, said: dict[str, bool]) -> Candidate:
    return Candidate(str(one.path), one.manifest.taken_at, said.get(one.manifest.sha256), one.safety)


def _remarks(latest: Path, ours: list[Dated], notes: DatedNotes, moment: datetime, time_zone: str) -> tuple[str, ...]:
    """What a person should know and only a person can mend."""
    cut = [str(one.path) for one in ours if not one.whole]
    nameless = [str(path) for path in dated.unreadable(latest)]
    future = [str(one.path) for one in ours if one.manifest.taken_at > moment]
    clock = spoken(moment, time_zone)
    said = (
        (notes.gone, "gone from the disk, and not by a prune"),
        (cut, "left alone, being not as long as its manifest says"),
        (nameless, "left alone, having no readable manifest"),
        (
            future,
            f"kept, being from later than this machine's clock says ({clock}): set it, or remove what a wrong one dated",
        ),
        (notes.elsewhere, "left alone, lying where the backups lay before: move them or remove them by hand"),
    )
    return tuple(f"{_named(paths)} {why}" for paths, why in said if paths)


def _named(things: Sequence[str]) -> str:
    """
    >>> _named(["a", "b"]), _named([*"abcdefg"])
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more


def sentence(results: Sequence[Pruned], after: str = "") -> str:
    """The sentence that pruning ends with.

    Args:
        results: one of each target.
        after: the sentence of what was done before, which comes first.

    Raises:
        Refused: one or more targets could not be pruned; each is named, and what was done for the others is said.

    >>> sentence([Pruned(Target(client="acme"), removed=3, kept=12, waiting=7, freed=2**30, used=5 * 2**30)])
    'client acme: 3 dated backups removed (1.0 GiB freed), 12 kept (7 wait for a verify-backup); its backups take 5.0 GiB.'
    >>> acme, beta = Pruned(Target(client="acme"), removed=1, kept=2, used=9), Pruned(Target(client="beta"), kept=4, waiting=1, used=9)
    >>> sentence([acme, beta])
    '2 targets: 1 dated backup removed (0 bytes freed), 6 kept (1 waits for a verify-backup: client beta 1); their backups take 18 bytes.'
    >>> sentence([acme, Pruned(Target(client="gone"), error=Refused("the disk is full", "free some"))])
    Traceback (most recent call last):
    tasks.errors.Refused: 1 of 2 targets could not be pruned: client gone: the disk is full (client acme: 1 dated backup removed (0 bytes freed), 2 kept; its backups take 9 bytes); for client gone: free some.
    >>> sentence([])
    'there is no backup yet, so there was nothing to prune.'
    >>> sentence([Pruned(Target(client="acme"), kept=1, used=9)], after="client acme: it is good.")
    'client acme: it is good. client acme: 0 dated backups removed (0 bytes freed), 1 kept; its backups take 9 bytes.'
    """
    if not results:
        return after or "there is no backup yet, so there was nothing to prune."
    before = f"{after} " if after else ""
    done = _done([one for one in results if one.error is None])
    failed = [(one.target.spoken, one.error) for one in results if one.error is not None]
    if not failed:
        return f"{before}{done}."
    whats = " / ".join(f"{name}: {error.what}" for name, error in failed)
    if len(results) == 1:
        raise Refused(f"{before}{whats}", failed[0][1].cure)
    raise Refused(
        f"{before}{len(failed)} of {len(results)} targets could not be pruned: {whats}"
        + (f" ({done})" if done else ""),
        " / ".join(f"for {name}: {error.cure}" for name, error in failed),
    )


def _done(results: Sequence[Pruned]) -> str:
    if not results:
        return ""
    alone = len(results) == 1
    waiting = [one for one in results if one.waiting]
    waits = ""
    if waiting:
        count = sum(one.waiting for one in waiting)
        whose = "" if alone else ": " + _named([f"{one.target.spoken} {one.waiting}" for one in waiting])
        waits = f" ({count} {'waits' if count == 1 else 'wait'} for a verify-backup{whose})"
    parts = [
        f"{results[0].target.spoken if alone else f'{len(results)} targets'}: "
        f"{many(sum(one.removed for one in results), 'dated backup')} removed "
        f"({mib(sum(one.freed for one in results))} freed), {sum(one.kept for one in results)} kept{waits}",
        f"{'its' if alone else 'their'} backups take {mib(sum(one.used for one in results))}",
        *(remark for one in results for remark in one.remarks),
    ]
    return "; ".join(parts)
