"""Where Prefect's own way with SQLite is not enough."""

import time
import uuid
from typing import Any

from tests.deployments.one_machine.running import RunningStack

EVENTS = 120
"""More than five lots of twenty, which is what Prefect's server writes at once and how often it tries."""


def test_events_that_are_sent_again_after_the_servers_death_are_written_once(stack: RunningStack):
    # A server that has just begun does not remember them, so they get as far as its database.
    events, later = [_event() for _ in range(EVENTS)], _event()
    stack.ask("POST", "/events", events)
    _written(stack, events[-1])
    stack.kill(stack.process("server"))
    stack.up()
    stack.ask("POST", "/events", events)
    stack.ask("POST", "/events", [later])
    for event in (later, events[0], events[-1]):
        _written(stack, event)
    log = (stack.place.logs / "server.log").read_text(errors="replace")
    assert "dropping" not in log


def _event() -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "event": "zero-fleet-test.sent",
        "resource": {"prefect.resource.id": "zero-fleet-test.sender"},
    }


def _written(stack: RunningStack, event: dict[str, Any], seconds: float = 30) -> None:
    """See ``event`` once among those that the server tells of."""
    deadline = time.monotonic() + seconds
    found = None
    while found != 1 and time.monotonic() < deadline:
        found = stack.ask("POST", "/events/filter", {"filter": {"id": {"id": [event["id"]]}}})["total"]
        time.sleep(0.2)
    assert found == 1


def test_a_queue_is_paused_and_goes_on(stack: RunningStack):
    # Its event is looked up while the change is being written: a server that waits for itself does not answer in time.
    for queue in stack.ask("POST", "/work_queues/filter", {}):
        path = f"/work_queues/{queue['id']}"
        try:
            stack.ask("PATCH", path, {"is_paused": True})
            assert stack.ask("GET", path)["status"] == "PAUSED"
        finally:
            stack.ask("PATCH", path, {"is_paused": False})
        assert stack.ask("GET", path)["status"] in ("READY", "NOT_READY")
