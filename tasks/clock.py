"""The clock: UTC inside, the operator's time zone wherever a person reads it."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from tasks.errors import InvalidInput


def now() -> datetime:
    """The moment, aware, in UTC."""
    return datetime.now(UTC)


def zone(name: str) -> ZoneInfo:
    """The IANA time zone called ``name``.

    Raises:
        InvalidInput: there is no such zone.

    >>> zone("Europe/Vienna").key
    'Europe/Vienna'
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidInput(
            f"TIME_ZONE is {name!r}, which is no IANA time zone", "set it to one like UTC or Europe/Vienna"
        ) from None


def spoken(moment: datetime, time_zone: str, seconds: bool = False) -> str:
    """``moment`` as an operator reads it, in ``time_zone``.

    >>> spoken(datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "Europe/Vienna")
    '2026-01-02 04:04'
    """
    return moment.astimezone(zone(time_zone)).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
