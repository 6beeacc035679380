"""upgrade-zero: clients moved to another image, each with a way back, a fleet in waves."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.steps.dump import dump_database
from tasks.clients.outcomes import Outcome, few
from tasks.clients.steps.operation import operation
from tasks.clients.steps.several import choose, each
from tasks.clients.steps.upgrade import back_to_the_old_image_if_it_fails, commit, look, set_aside, try_new
from tasks.clients.upgrade import check_image
from tasks.clients.waves import next_wave, summary, too_many

Clients = Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=20_000)]
Image = Annotated[str, Field(min_length=1, max_length=300)]
Wave = Annotated[int, Field(ge=1, le=20)]
Ratio = Annotated[float, Field(ge=0, le=1)]


def run_name() -> str:
    """`upgrade acme, beta to IMAGE`: Prefect's own template would show a Python list."""
    given = flow_run.parameters
    return f"upgrade {few(given.get('clients', ()))} to {given.get('image')}"


@flow(name="upgrade-zero", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def upgrade_zero(clients: Clients, image: Image, wave: Wave = 4, abort_ratio: Ratio = 0.2) -> str:
    """Move clients to another image: a proven backup, the old container kept aside, the new one on the same port; when it does not
    serve in time, the old image comes back with the database exactly as it was.

    The service is away from the old container's stop until the new one serves; its database is copied on the server in between,
    which needs that much free disk there. Run again after anything: who is upgraded already is left alone, and what a killed or
    cancelled run left is finished or taken back first (provision-client, start-zero and restart-zero do that too).

    Args:
        clients: One slug, several, or `all`.
        image: Image and tag to run, like ghcr.io/mail-0/zero:staging; it is looked for, and pulled, before anything is touched.
        wave: So many clients at once, after a first one alone.
        abort_ratio: Stop before the next wave when more than this share of those attempted has failed; 0 stops at the first failure, 1 never.
    """
    check_image(image)
    left = await choose(clients)
    outcomes: list[Outcome] = []
    tried: set[str] = set()
    pinned = ""

    async def upgrade(client: str) -> str:
        nonlocal pinned
        async with operation(client, "upgrade"):
            outlook = await look(client, image, pinned)
            pinned = pinned or outlook.image_id
            if outlook.sentence:
                return outlook.sentence
            tried.add(client)
            await dump_database(client, None)
            async with back_to_the_old_image_if_it_fails(client, image):
                await set_aside(client)
                await try_new(client)
            return await commit(client)

    while left and not too_many(outcomes, tried, abort_ratio):
        now = next_wave(left, tried, wave)
        outcomes += await each(now, upgrade, at_once=wave)
        left = left[len(now) :]
    return summary(outcomes, tried, left, image)
