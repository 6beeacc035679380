"""Which dated backups go: what holds for any history, clock and time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from tasks.backups.retention import NEWEST_ONLY, SAFETY_DAYS, Candidate, Retention, decide, kept

START = datetime(2025, 11, 1, tzinfo=UTC)
NOW = datetime(2027, 1, 1, tzinfo=UTC)
ZONES = st.sampled_from([UTC, ZoneInfo("Europe/Vienna"), ZoneInfo("Pacific/Apia"), ZoneInfo("America/St_Johns")])
RETENTIONS = st.builds(Retention, st.integers(0, 9), st.integers(0, 5), st.integers(0, 7))
MOMENTS = st.lists(st.integers(0, 420 * 24 * 60), unique=True, max_size=60).map(
    lambda minutes: [START + timedelta(minutes=one) for one in minutes]
)


def _named(moments, verified=None) -> list[Candidate]:
    return [Candidate(f"{moment:%y%m%d%H%M}", moment, verified) for moment in moments]


PROVEN = MOMENTS.map(lambda moments: _named(moments, verified=True))
HISTORIES = MOMENTS.flatmap(
    lambda moments: st.tuples(*(st.sampled_from([True, None, None, False]) for _ in moments)).map(
        lambda verdicts: [_named([one], said)[0] for one, said in zip(moments, verdicts, strict=True)]
    )
)


@given(HISTORIES, RETENTIONS, ZONES)
def test_neither_the_newest_nor_what_nothing_proven_follows_is_removed(backups, retention, zone):
    plan = decide(backups, retention, zone, NOW)
    assert plan.keep | plan.wait | plan.remove == {one.name for one in backups}
    assert len(plan.keep) + len(plan.wait) + len(plan.remove) == len(backups)
    proven = max((one.moment for one in backups if one.verified), default=START)
    assert all(one.moment < proven for one in backups if one.name in plan.remove)
    if backups:
        assert max(backups, key=lambda one: one.moment).name in plan.keep


@given(PROVEN, RETENTIONS, ZONES)
def test_as_many_are_kept_as_the_numbers_say_and_none_waits_when_all_are_proven(backups, retention, zone):
    plan = decide(backups, retention, zone, NOW)
    assert not plan.wait and len(plan.keep) <= retention.most
    days = {one.moment.astimezone(zone).date() for one in backups}
    assert len(plan.keep) >= min(max(1, retention.daily), len(days)) or not backups


@given(HISTORIES, RETENTIONS, ZONES)
def test_a_second_look_removes_nothing_more(backups, retention, zone):
    plan = decide(backups, retention, zone, NOW)
    left = [one for one in backups if one.name not in plan.remove]
    assert decide(left, retention, zone, NOW) == type(plan)(plan.keep, plan.wait, frozenset())


@given(PROVEN, MOMENTS, RETENTIONS, ZONES)
def test_newer_backups_only_push_out_and_never_bring_back(backups, later, retention, zone):
    last = max((one.moment for one in backups), default=START)
    newer = _named([last + (moment - START) + timedelta(minutes=1) for moment in later], verified=True)
    assert kept([*backups, *newer], retention, zone) & {one.name for one in backups} <= kept(backups, retention, zone)


@given(PROVEN, RETENTIONS, ZONES)
def test_pruning_after_each_backup_ends_where_pruning_once_does(backups, retention, zone):
    left: list[Candidate] = []
    for one in sorted(backups, key=lambda one: one.moment):
        left.append(one)
        plan = decide(left, retention, zone, NOW)
        left = [other for other in left if other.name not in plan.remove]
    assert {one.name for one in left} == decide(backups, retention, zone, NOW).keep


@given(HISTORIES, HISTORIES, RETENTIONS, ZONES)
def test_backups_from_the_future_are_kept_and_change_nothing_for_the_others(backups, others, retention, zone):
    wrong = [Candidate(f"f{one.name}", one.moment + (NOW - START), one.verified) for one in others]
    wrong = [one for one in wrong if one.moment > NOW]
    plan, without = (decide(some, retention, zone, NOW) for some in ([*backups, *wrong], backups))
    assert (plan.remove, plan.wait) == (without.remove, without.wait)
    assert plan.keep == without.keep | {one.name for one in wrong}
    # A clock that went back before all of them removes none.
    assert not decide(backups, retention, zone, START - timedelta(days=1)).remove


@given(HISTORIES, RETENTIONS, st.data())
def test_the_latest_is_kept_whatever_the_clock_said_of_it(backups, retention, data):
    if backups:
        latest = data.draw(st.sampled_from(backups)).name
        assert latest in decide(backups, retention, UTC, NOW, latest).keep


def test_what_a_restore_found_bad_stands_for_its_day_only_alone():
    day = datetime(2026, 5, 1, tzinfo=UTC)
    bad_after_good = [
        Candidate("good", day + timedelta(hours=2), True),
        Candidate("bad", day + timedelta(hours=3), False),
        Candidate("alone", day + timedelta(days=1), False),
        Candidate("newest", day + timedelta(days=2), True),
    ]
    plan = decide(bad_after_good, Retention(3, 0, 0), UTC, NOW)
    assert (plan.keep, plan.remove) == ({"good", "alone", "newest"}, {"bad"})


def test_a_day_ends_at_the_operators_midnight():
    evening, morning = datetime(2026, 5, 1, 21, 30, tzinfo=UTC), datetime(2026, 5, 1, 22, 30, tzinfo=UTC)
    two = _named([evening, morning], verified=True)
    assert decide(two, Retention(2, 0, 0), UTC, NOW).remove == {two[0].name}
    assert not decide(two, Retention(2, 0, 0), ZoneInfo("Europe/Vienna"), NOW).remove


def test_a_safety_backup_stays_for_its_days_and_until_something_newer_is_proven():
    taken = datetime(2026, 5, 1, 12, tzinfo=UTC)
    safety = Candidate("safety", taken, None, safety=True)
    regular = [
        Candidate("before", taken - timedelta(days=1), True),
        Candidate("after", taken + timedelta(days=1), None),
    ]
    young, old = taken + timedelta(days=SAFETY_DAYS - 1), taken + timedelta(days=SAFETY_DAYS)
    assert "safety" in decide([safety, *regular], NEWEST_ONLY, UTC, young).keep
    assert "safety" in decide([safety, *regular], NEWEST_ONLY, UTC, old).wait
    proven = [regular[0], Candidate("after", regular[1].moment, True)]
    assert "safety" in decide([safety, *proven], NEWEST_ONLY, UTC, young).keep
    assert "safety" in decide([safety, *proven], NEWEST_ONLY, UTC, old).remove
    # It takes nobody's place: the newest regular one is the newest.
    assert decide([safety, regular[0]], NEWEST_ONLY, UTC, old).keep == {"before"}
