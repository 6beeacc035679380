"""After all that was done to the stack; this file's name puts it last."""

import re

from tests.deployments.one_machine.running import RunningStack


def test_the_servers_log_holds_no_error(stack: RunningStack, client):
    log = (stack.place.logs / "server.log").read_text(errors="replace")
    assert "ERROR" not in log, "\n".join(_excerpts(log))


def _excerpts(log: str) -> list[str]:
    """Each ERROR with the end of its traceback, and the SQL that met it."""
    found = []
    for part in re.split(r"(?=^\S*\s*\d\d:\d\d:\d\d)", log, flags=re.MULTILINE):
        if "ERROR" in part:
            lines = part.strip().splitlines()
            words = ("[SQL:", "Error", "server/api/", "server/services/", "server/utilities/", "one_machine")
            kept = [line.strip()[:300] for line in lines if any(word in line for word in words)]
            found.append("\n".join([lines[0][:300], *kept[-12:]]))
    return found
