from datetime import UTC, datetime

from tasks.gmail import rows
from tasks.gmail.profile import Profile
from tasks.registry.models import GmailStatus

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ADA = Profile("7", "ada@example.org", given_name="Ada", messages_total=2**40)


def test_a_late_refusal_of_an_old_grant_does_not_kill_a_newer_one(registry):
    rows.record_grant(registry, "42", 1, "ada@site.org", ["openid"], NOW)
    rows.record_grant(registry, "42", 2, "", ["openid"], NOW)
    assert rows.record_reconnect(registry, "42", 1, "gone") is False
    assert rows.record_profile(registry, "42", 1, ADA, ["openid"], NOW) is False
    row = rows.find_row(registry, "42")
    assert (row.status, row.generation, row.email, row.last_error) == (GmailStatus.CONNECTED, 2, None, None)
    assert row.login_email == "ada@site.org"  # an empty one keeps what is known

    assert rows.record_profile(registry, "42", 2, ADA, ["openid"], NOW) is True
    assert rows.record_reconnect(registry, "42", 2, "gone") is True
    row = rows.find_row(registry, "42")
    assert (row.status, row.email, row.messages_total, row.last_error) == (
        GmailStatus.RECONNECT,
        "ada@example.org",
        2**40,
        "gone",
    )
    assert row.login_email == "ada@site.org" and row.refreshed_at == NOW

    rows.record_grant(registry, "42", 3, "", ["openid", "email"], NOW)
    row = rows.find_row(registry, "42")
    assert (row.status, row.last_error, row.sub, row.granted_scopes) == (
        GmailStatus.CONNECTED,
        None,
        None,
        "email openid",
    )


def test_a_row_that_a_kill_left_behind_is_raised_to_the_tokens_generation(registry):
    assert rows.ensure_row(registry, "42", 3).generation == 3
    rows.record_reconnect(registry, "42", 3, "gone")
    assert rows.ensure_row(registry, "42", 3).status is GmailStatus.RECONNECT
    raised = rows.ensure_row(registry, "42", 4)
    assert (raised.generation, raised.status) == (4, GmailStatus.CONNECTED)
    assert rows.ensure_row(registry, "42", 2).generation == 4
