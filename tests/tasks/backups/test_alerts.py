"""When the fleet's backups need somebody, and how a night reads: pure, from one database to five hundred."""

import json
import secrets
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tasks.backups import summary
from tasks.backups.alerts import Alert, Kind, Limits, about, disk
from tasks.backups.disk_outlook import DAY, Disk, Pace, next_night, outlook, pace
from tasks.backups.fleet import Night
from tasks.backups.records import Kept, Lying, Record
from tasks.backups.source import Target
from tasks.backups.summary import (
    ARTIFACT_BYTES,
    ATTENTION,
    COLUMNS,
    Summary,
    artifact_rows,
    closing,
    line,
    ordered,
    table,
)
from tasks.errors import Refused
from tasks.registry.models import Delivery

AT = datetime(2026, 5, 20, 2, 30, tzinfo=UTC)
ACME = Target(client="acme")
LIMITS = Limits()


def _kept(hours: float, size: int = 1000, rows: int = 100, **other) -> Kept:
    given = {"row_id": int(10_000 - hours), "taken_at": AT - timedelta(hours=hours), "seconds": 1.5}
    given |= {"file_bytes": size, "database_bytes": 3 * size, "rows": rows}
    given |= {"delivery": Delivery.SENT, "delivery_error": "", "deliver_after": None}
    return Kept(**(given | other))


def _record(*recent: Kept, **other) -> Record:
    return Record(ACME, list(recent), **({"first_at": AT - 90 * DAY, "proven_at": AT - DAY} | other))


def _kinds(record: Record, limits: Limits = LIMITS) -> list[Kind]:
    return [one.kind for one in about(record, limits, AT, "UTC")]


def test_a_target_that_is_well_raises_nothing():
    assert _kinds(_record(_kept(0), _kept(24))) == []


@pytest.mark.parametrize(("hours", "raised"), [(25.9, []), (26.1, [Kind.OLD])])
def test_a_backup_is_too_old_from_the_policys_hour_on(hours, raised):
    assert _kinds(_record(_kept(hours))) == raised


def test_the_sentence_of_an_old_backup_says_when_how_long_and_what_to_do():
    (alert,) = about(_record(_kept(75)), LIMITS, AT, "Europe/Vienna")
    assert alert.sentence == (
        "the newest backup of client acme is of 2026-05-17 01:30, 3 days ago (allowed: 26 h); "
        "run backup-database for client acme and mend what it names."
    )


def test_a_target_that_was_never_backed_up_is_one_alert():
    (alert,) = about(Record(ACME, []), LIMITS, AT, "UTC")
    assert alert.kind is Kind.OLD and alert.what == "client acme has no good backup at all"


@pytest.mark.parametrize(
    ("first", "proven", "raised"),
    [
        (7, None, []),  # younger than what is allowed: its first trial is still to come
        (9, None, [Kind.UNVERIFIED]),
        (90, 7, []),
        (90, 9, [Kind.UNVERIFIED]),
    ],
)
def test_a_backup_has_to_be_proven_within_the_policys_days(first, proven, raised):
    proven_at = AT - proven * DAY if proven else None
    found = about(_record(_kept(0), first_at=AT - first * DAY, proven_at=proven_at), LIMITS, AT, "UTC")
    assert [one.kind for one in found] == raised
    if raised:
        assert ("was ever proven by a trial restore, its first is 9 days old" in found[0].what) is (proven is None)


def test_a_backup_that_a_trial_found_bad_is_told_though_another_was_proven():
    (alert,) = about(_record(_kept(0), damaged="/b/x is damaged; make a new one."), LIMITS, AT, "UTC")
    assert alert.kind is Kind.DAMAGED and "found its backup not good (/b/x is damaged)" in alert.what


@pytest.mark.parametrize(
    ("size", "rows", "raised"), [(500, 50, 0), (499, 100, 1), (1000, 49, 1), (400, 0, 1), (3000, 300, 0)]
)
def test_a_sharp_fall_of_size_or_rows_is_told_once(size, rows, raised):
    assert _kinds(_record(_kept(0, size, rows), _kept(24))) == [Kind.SHRUNK] * raised


def test_a_fall_says_both_sizes_and_both_counts():
    (alert,) = about(_record(_kept(0, 100, 3), _kept(24)), LIMITS, AT, "UTC")
    assert alert.what == (
        "the backup of client acme is 90 % smaller than that of 2026-05-19 02:30 (1000 bytes, now 100 bytes) "
        "and has 97 % fewer rows than that of 2026-05-19 02:30 (100, now 3)"
    )


def test_a_backup_by_hand_in_between_does_not_hide_a_fall():
    assert _kinds(_record(_kept(0, 100), _kept(10, 100), _kept(24, 1000))) == [Kind.SHRUNK]
    assert _kinds(_record(_kept(0, 100), _kept(10, 100), _kept(48, 1000))) == []


def test_a_first_backup_fell_from_nothing():
    assert _kinds(_record(_kept(0, 1, 0), first_at=AT)) == []


def test_with_a_full_retention_only_the_growth_of_sizes_fills_the_disk():
    """Seven dated files of each night; nights grow by 10 bytes, so seven files by 70 a day."""
    nights = [Lying(1000 + 10 * (60 - n), AT - n * DAY, None if n < 7 else AT - (n - 7) * DAY) for n in range(60)]
    seen = pace(nights, AT)
    assert seen == Pace(70.0, 28.0)
    assert outlook(Disk("/b", 70 * 14), 0, seen, 14) == ""
    assert "full in about 13 days" in outlook(Disk("/b", 70 * 14 - 1), 0, seen, 14)
    assert outlook(Disk("/b", 69), 0, seen, 14).startswith("the disk of /b is full within a day")
    assert outlook(Disk("/b", 69), 0, seen, 0) == ""


def test_latest_only_grows_by_its_sizes_alone():
    nights = [Lying(1000, AT - n * DAY, None if n == 0 else AT - (n - 1) * DAY) for n in range(40)]
    assert pace(nights, AT) == Pace(0.0, 28.0)


def test_the_next_night_needs_a_whole_set_or_what_is_written_at_once():
    newest = [_kept(0, size, database_bytes=0) for size in (100, 200, 1000)]
    assert next_night(newest, True, 1) == 1300
    assert next_night(newest, False, 1) == 1200
    assert next_night(newest, False, 2) == 1440
    assert next_night([], True, 4) == 0
    assert outlook(Disk("/b", 1299), 1300, None, 0) == (
        "the disk of /b has 1.3 KiB free and the next night needs about 1.3 KiB"
    )


def _night(count: int, failed: int = 0, undelivered: int = 0, shrunk: int = 0) -> Summary:
    """A night of ``count`` clients, of which the last ones are ill."""
    lines = []
    for n in range(count):
        whose = Target(client=f"client-number-{n:03}")
        left = count - n
        lost = left <= failed
        mail_lost = failed < left <= failed + undelivered
        fell = failed + undelivered < left <= failed + undelivered + shrunk
        newest = _kept(
            24 if lost else 0,
            100 if fell else 1000 + n,
            delivery=Delivery.FAILED if mail_lost else Delivery.SENT,
            delivery_error="it was not tried; mend the mail." if mail_lost else "",
        )
        record = Record(whose, [newest, _kept(30, 1000 + n)], AT - 90 * DAY, AT - 2 * DAY)
        done = Night(whose, None if lost else newest.row_id, "the server is away; start it." if lost else "")
        lines.append(line(done, record, about(record, LIMITS, AT, "UTC"), True, "UTC"))
    return Summary(AT, "UTC", 61.0, ordered(lines), True)


def test_the_tables_cells():
    (row,) = table(_night(1))
    assert row == {
        "client": "client client-number-000",
        "size": "1000 bytes",
        "change": "+0.0 %",
        "duration": "1.5 s",
        "delivered": "yes",
        "verified": "2 days old",
        "age": "0 min",
        "attention": "",
    }
    never = Record(ACME, [])
    (row,) = table(Summary(AT, "UTC", 1, [line(Night(ACME, None, "no; go."), never, [], True, "UTC")], True))
    assert row["size"] == "none" and row["age"] == "never" and row["attention"] == "client acme: NOT backed up: no; go."


def test_a_mail_that_is_tried_again_says_when():
    late = _kept(0, delivery=Delivery.FAILED, delivery_error="greylisted; wait.", deliver_after=AT + timedelta(hours=1))
    found = line(Night(ACME, late.row_id), _record(late), [], True, "UTC")
    assert found.undelivered == "greylisted; wait. It is tried again after 2026-05-20 03:30."
    assert line(Night(ACME, late.row_id), _record(late), [], False, "UTC").undelivered == ""


def test_five_hundred_clients_stay_readable_with_the_ill_ones_first():
    night = _night(500, failed=3, undelivered=4, shrunk=2)
    rows = table(night)
    assert len(rows) == 500
    marks = [
        "NOT backed up" in row[ATTENTION] or "not delivered" in row[ATTENTION] or "smaller" in row[ATTENTION]
        for row in rows
    ]
    assert marks == [True] * 9 + [False] * 491
    assert [row["client"] for row in rows[:3]] == [f"client client-number-{n}" for n in (497, 498, 499)]
    assert artifact_rows(rows) == rows and len(json.dumps(rows)) < ARTIFACT_BYTES / 2

    text = summary.text(night)
    assert text.startswith(
        "3 of 500 databases NOT backed up; 4 backups NOT delivered; 2 alerts; 497 databases backed up in 61 s"
    )
    lines = text.splitlines()
    assert lines[2] == "What needs you:"
    assert lines[4].startswith("- client client-number-497: NOT backed up: the server is away; start it.")
    plain = lines[-501:]  # the table: its head, and a line of at most 120 characters for each database
    assert plain[0].split() == list(COLUMNS) and max(map(len, plain)) < 120
    assert [one[0] for one in plain[1:]] == ["!"] * 9 + [" "] * 491
    assert len({one.index("1.5 s") for one in plain[1:]}) == 1

    with pytest.raises(Refused) as closed:
        closing(night, [], "ops@example.org")
    said = str(closed.value)
    assert said == (
        "3 of 500 databases NOT backed up; 4 backups NOT delivered; 2 alerts; 497 databases backed up in 61 s (603.0 KiB); "
        "not backed up: client client-number-497 (the server is away) / client client-number-498 (the server is away) / "
        "client client-number-499 (the server is away); "
        "not delivered: client client-number-493 (it was not tried) / client client-number-494 (it was not tried) / "
        "client client-number-495 (it was not tried) and 1 more; "
        "alerts: the backup of client client-number-491 is 93 % smaller than that of 2026-05-18 20:30 (1.5 KiB, now 100 bytes) / "
        "the backup of client client-number-492 is 93 % smaller than that of 2026-05-18 20:30 (1.5 KiB, now 100 bytes); "
        "see the artifact backups and the mail to ops@example.org for all of it, mend what is named and run again."
    )


def test_five_hundred_failures_fit_into_mail_artifact_and_sentence():
    night = _night(500, failed=500)
    lines = [
        summary.Line(
            one.record, failed="PostgreSQL at db:5432 is away, " + "and long words follow, " * 100 + "; start it."
        )
        for one in night.lines
    ]
    night = Summary(AT, "UTC", 61.0, lines, True)
    rows = artifact_rows(table(night))
    assert len(json.dumps(rows)) < ARTIFACT_BYTES and len(rows) == 500
    text = summary.text(night)
    assert "- and 300 more; see the artifact backups in Prefect's UI." in text
    with pytest.raises(Refused, match="and 497 more") as closed:
        closing(night, [], "")
    assert "client-number-003" not in str(closed.value)


def test_a_table_too_large_for_an_artifact_says_what_it_leaves_out():
    rows = [dict.fromkeys((*COLUMNS, ATTENTION), secrets.token_hex(40)) for _ in range(2000)]
    kept = artifact_rows(rows)
    assert len(json.dumps(kept)) < ARTIFACT_BYTES + 500
    assert kept[-1]["client"] == f"{2000 - (len(kept) - 1)} more" and kept[:-1] == rows[: len(kept) - 1]


def test_a_good_night_is_one_sentence_and_says_what_was_left_out():
    night = Summary(
        AT, "UTC", 61.0, _night(2).lines, True, left_out=["newco"], gone=["client old"], notes=["1 removed"]
    )
    assert closing(night, [], "ops@example.org") == (
        "2 databases backed up in 61 s (2.0 KiB); the summary was mailed to ops@example.org; "
        "without a database yet, so left out: newco; no longer backed up, since their client or block is gone: client old; "
        "1 removed."
    )
    assert "Nothing needs you." in summary.text(
        night
    ) and "Without a database yet, so left out: newco." in summary.text(night)


@pytest.mark.parametrize(
    "trouble", ["the summary mail was NOT sent: refused; mend it.", "the table was not written: x; y."]
)
def test_a_good_night_that_could_not_be_told_fails(trouble):
    with pytest.raises(Refused) as closed:
        closing(_night(2), [trouble], "")
    assert trouble.partition(";")[0] in str(closed.value) and "2 databases backed up" in str(closed.value)


@pytest.mark.parametrize(
    "ill", [{"disk": disk("the disk of /b is full")}, {"troubles": ["pruning: no right; give it."]}]
)
def test_a_night_with_a_full_disk_or_an_unpruned_folder_fails(ill):
    night = Summary(AT, "UTC", 61.0, _night(2).lines, True, **ill)
    with pytest.raises(Refused, match=r"alerts: the disk of /b is full|pruning: no right"):
        closing(night, [], "")
    assert "What needs you:" in summary.text(night)


def test_what_needs_somebody_comes_before_what_does_not():
    rank = {"failed": 0, "undelivered": 1, "alerts": 2, "undated": 3, "asides": 4, "": 5}
    record = _record(_kept(0))
    ill = {
        "failed": {"failed": "x"}, "undelivered": {"undelivered": "x"}, "undated": {"undated": "x"}, "": {},
        "alerts": {"alerts": [Alert(Kind.OLD, ACME, "x", "y")]}, "asides": {"asides": ["x"]},
    }  # fmt: skip
    lines = [(name, summary.Line(record, **given)) for name, given in [*ill.items(), *reversed(ill.items())]]
    names = {id(one): name for name, one in lines}
    found = [rank[names[id(one)]] for one in ordered(one for _, one in lines)]
    assert all(first <= second for first, second in pairwise(found))
