"""What a PostgreSQL server's refusal means, in an operator's words.

SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html. A failed connection carries no code in
libpq, so its text decides; we set ``lc_messages`` nowhere and the texts matched are those of an English server.
"""

from tasks.errors import FleetError, Refused, Unreachable


class NotLetIn(Refused):
    """The server answers, but has no such database or role, or another password for it."""


def explain(text: str, sqlstate: str | None, server: str, user: str, database: str, block: str = "") -> FleetError:
    """The error to raise for what the server at ``server`` answered to ``user`` on ``database``.

    Args:
        text: the server's or libpq's message; only its first line is shown, and only where it is not understood.
        sqlstate: five characters, or None where the connection itself failed.
        server: ``host:port``, as shown to the operator.
        block: the block that host, port and password come from, where the caller knows it.

    >>> print(explain('FATAL:  password authentication failed for user "p"', None, "db:5432", "p", "postgres"))
    PostgreSQL at db:5432 refused the password of role p; correct the password in the block and run again.
    >>> print(explain("fe_sendauth: no password supplied", None, "db:5432", "p", "postgres"))
    PostgreSQL at db:5432 refused role p: no password given; fill the password in the block and run again.
    >>> print(explain("connection refused", None, "db:5432", "p", "postgres", "app-database"))
    PostgreSQL at db:5432 does not answer (connection refused); start it, or correct host and port in the block app-database.
    """
    low, its_block = text.lower(), f"the block {block}".rstrip()
    if "no password supplied" in low:  # libpq's own, where the server asks for one and we hold none
        return Refused(
            f"PostgreSQL at {server} refused role {user}: no password given",
            f"fill the password in {its_block} and run again",
        )
    if sqlstate in ("28P01", "28000") or "password authentication failed" in low:
        return NotLetIn(
            f"PostgreSQL at {server} refused the password of role {user}",
            f"correct the password in {its_block} and run again",
        )
    if "no pg_hba.conf entry" in low:
        return Refused(
            f"PostgreSQL at {server} lets role {user} not connect to {database} from here (no pg_hba.conf entry)",
            "add a line for this address to its pg_hba.conf and reload it",
        )
    if sqlstate == "3D000" or ("database" in low and "does not exist" in low):
        return NotLetIn(
            f"PostgreSQL at {server} has no database {database}", "correct the name or provision the client"
        )
    if "role" in low and "does not exist" in low:
        return NotLetIn(f"PostgreSQL at {server} has no role {user}", "correct the role's name or provision the client")
    if sqlstate == "42501" or "permission denied" in low:
        return Refused(
            f"role {user} lacks a right in {database} at {server} ({first_line(text)})",
            "grant the right named, or use a role that has it",
        )
    if sqlstate == "53300" or "too many clients" in low or "too many connections" in low:
        return Unreachable(
            f"PostgreSQL at {server} has no connection left for {user} on {database}",
            "try again when others have ended, or raise the limit",
        )
    if sqlstate == "57014":
        return Unreachable(
            f"PostgreSQL at {server} cancelled a statement of {user} that took too long",
            "try again when it has less load",
        )
    if sqlstate in ("53100", "58030") or "no space left" in low:
        return Refused(f"PostgreSQL at {server} has no disk space left", "free disk space on the server and run again")
    if sqlstate is None or sqlstate[:2] in ("08", "57"):
        return Unreachable(
            f"PostgreSQL at {server} does not answer ({_short_cause(low)})",
            f"start it, or correct host and port in {its_block}",
        )
    return Refused(
        f"PostgreSQL at {server} refused a statement of {user} on {database} ({sqlstate}: {first_line(text)})",
        "read the server's log for more, mend it and run again",
    )


def first_line(text: str) -> str:
    """The first line of ``text`` without its severity, at most 200 characters.

    >>> first_line("FATAL:  sorry\\nDETAIL: more")
    'sorry'
    """
    line = text.strip().splitlines()[0] if text.strip() else "no message"
    for severity in ("FATAL:", "ERROR:", "PANIC:"):
        line = line.rsplit(severity, 1)[-1]
    return line.strip()[:200]


def _short_cause(low: str) -> str:
    for sign, words in (
        ("refused", "connection refused"),
        ("timeout", "timed out"),
        ("timed out", "timed out"),
        ("resolve", "no such host name"),
        ("name or service", "no such host name"),
        ("starting up", "it is starting up"),
        ("shutting down", "it is shutting down"),
        ("certificate", "its certificate was not accepted"),
        ("ssl", "no TLS as asked for"),
    ):
        if sign in low:
            return words
    return "connection lost"
