"""zero-logs: the end of a client's log."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from blocks.installation import installation
from flows.outcome import NOWHERE, told
from tasks.clients.logs import since_when
from tasks.clients.steps.lifecycle import read_log
from tasks.clock import now
from tasks.registry.names import require_slug

Client = Annotated[str, Field(min_length=1, max_length=40)]
Lines = Annotated[int, Field(ge=1, le=5_000)]
Moment = Annotated[str, Field(max_length=40)]


@flow(name="zero-logs", flow_run_name="zero logs of {client}", persist_result=False, result_storage=NOWHERE)
@told
async def zero_logs(client: Client, tail: Lines = 100, since: Moment | None = None) -> str:
    """Show the end of a client's log, without its secrets: in this run's log, and as the artifact `logs-SLUG`.

    It waits for nobody: an operation on the client goes on meanwhile.

    Args:
        client: Slug of the client.
        tail: At most so many lines.
        since: Only what was said since then: like 10m, 2h or 1d ago, or a moment like 2026-01-31T14:00.
    """
    require_slug(client)
    begun = since_when(since, now(), installation().time_zone)
    return await read_log(client, tail, begun)
