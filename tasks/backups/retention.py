"""Which dated backups are kept: the newest of each of the last days, weeks and months that have one. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

SAFETY_DAYS = 30
"""A backup made before a restore went over the database is kept so many days at least: time enough to find out what was lost."""


@dataclass(frozen=True)
class Retention:
    """Of how many days, weeks and months that have a backup the newest is kept; all 0: only the newest of all."""

    daily: int = 7
    weekly: int = 4
    monthly: int = 6

    @property
    def most(self) -> int:
        """At most so many are kept, once each is verified.

        >>> Retention().most, Retention(0, 0, 0).most
        (17, 1)
        """
        return max(1, self.daily + self.weekly + self.monthly)


NEWEST_ONLY = Retention(0, 0, 0)


@dataclass(frozen=True)
class Candidate:
    """A backup as the decision sees it."""

    name: str
    """Tells it from the others."""
    moment: datetime
    """When it was taken, with a time zone."""
    verified: bool | None = None
    """What the last trial restore of it said; None: there was none."""
    safety: bool = False
    """Made before a restore went over the database."""


@dataclass(frozen=True)
class Plan:
    """What becomes of each backup, by name; every one is in exactly one of the three."""

    keep: frozenset[str]
    wait: frozenset[str]
    """Not wanted any more, and yet kept: nothing newer is proven by a trial restore."""
    remove: frozenset[str]


def _day(moment: datetime) -> tuple[int, ...]:
    return (moment.year, moment.month, moment.day)


def _week(moment: datetime) -> tuple[int, ...]:
    year, week, _ = moment.isocalendar()
    return (year, week)


def _month(moment: datetime) -> tuple[int, ...]:
    return (moment.year, moment.month)


def _age(one: Candidate) -> tuple[datetime, str]:
    return (one.moment, one.name)


def kept(backups: Iterable[Candidate], retention: Retention, zone: tzinfo) -> set[str]:
    """The names of the backups that the numbers ask for; the newest always.

    Days without a backup do not count, so that a fleet that stood still for a month loses nothing. What a trial restore found
    bad stands for its day, week or month only where there is nothing else.

    Args:
        backups: of one target.
        retention: the numbers.
        zone: whose midnight ends a day.

    >>> from datetime import UTC
    >>> taken = [datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=n) for n in range(100)]
    >>> backups = [Candidate(f"{moment:%m-%d}", moment) for moment in taken]
    >>> sorted(kept(backups, Retention(daily=3, weekly=2, monthly=2), UTC))
    ['03-31', '04-05', '04-08', '04-09', '04-10']
    >>> kept(backups, NEWEST_ONLY, UTC)
    {'04-10'}
    """
    newest_first = sorted(backups, key=_age, reverse=True)
    keep = {one.name for one in newest_first[:1]}
    periods: tuple[tuple[int, Callable[[datetime], tuple[int, ...]]], ...] = (
        (retention.daily, _day),
        (retention.weekly, _week),
        (retention.monthly, _month),
    )
    for count, period in periods:
        stands: dict[tuple[int, ...], Candidate] = {}
        for one in newest_first:
            which = period(one.moment.astimezone(zone))
            chosen = stands.setdefault(which, one)
            if chosen.verified is False and one.verified is not False:
                stands[which] = one
        keep |= {one.name for one in list(stands.values())[:count]}
    return keep


def decide(
    backups: Iterable[Candidate], retention: Retention, zone: tzinfo, moment: datetime, latest: str | None = None
) -> Plan:
    """What becomes of the backups of one target.

    One goes only when the numbers do not ask for it and a newer one is proven by a trial restore. A backup from the future
    (some clock was wrong, that day's or today's) is kept, stands for no day and proves nothing: whichever clock it was, no
    backup is lost by it.

    Args:
        backups: those that are whole on the disk.
        retention: the numbers.
        zone: whose midnight ends a day.
        moment: the clock's now.
        latest: the name of the one that is the latest backup; it is kept whatever the clock said when it was taken.

    >>> from datetime import UTC
    >>> day = [datetime(2026, 1, n, 2, tzinfo=UTC) for n in range(1, 7)]
    >>> two = Retention(daily=2, weekly=0, monthly=0)
    >>> backups = [Candidate("1st", day[0]), Candidate("2nd", day[1], True), Candidate("3rd", day[2]), Candidate("4th", day[3])]
    >>> backups += [Candidate("5th", day[4])]
    >>> plan = decide(backups, two, UTC, day[5])
    >>> sorted(plan.keep), sorted(plan.wait), sorted(plan.remove)
    (['4th', '5th'], ['2nd', '3rd'], ['1st'])
    """
    everyone = list(backups)
    present = [one for one in everyone if one.moment <= moment]
    regular = [one for one in present if not one.safety]
    wanted = kept(regular, retention, zone) | {
        one.name for one in everyone if one.moment > moment or one.name == latest
    }
    wanted |= {one.name for one in present if one.safety and moment - one.moment < timedelta(days=SAFETY_DAYS)}
    proven = max((_age(one) for one in regular if one.verified), default=None)
    unwanted = [one for one in present if one.name not in wanted]
    remove = frozenset(one.name for one in unwanted if proven is not None and _age(one) < proven)
    return Plan(frozenset(wanted), frozenset(one.name for one in unwanted) - remove, remove)
