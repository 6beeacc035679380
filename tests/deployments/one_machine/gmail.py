"""connect-gmail on the whole stack, with the user's browser played by the stand-in for Google."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployments.one_machine.runs import Api, Ended
from tasks.registry.names import gmail_block
from tests.deployments.one_machine.running import RUN_SECONDS, RunningStack


@asynccontextmanager
async def connecting(stack: RunningStack, user: str, login_email: str = "") -> AsyncIterator[tuple[str, list[Ended]]]:
    """A connect-gmail run that waits for its user: its link, and a list that holds how it ended after the ``with`` block."""
    api, ended = Api(stack.place), list[Ended]()
    try:
        run = await api.start("connect-gmail/default", {"user": user, "login_email": login_email, "wait_minutes": 3})
        yield await _link(stack, api, run, user), ended
        ended.append(await api.wait(run, RUN_SECONDS))
    finally:
        await api.close()


async def _link(stack: RunningStack, api: Api, run: str, user: str) -> str:
    for _ in range(240):
        found = await api.get(f"/artifacts/{gmail_block(user)}/latest")
        if found is not None and found["flow_run_id"] == run:
            link = re.search(rf"{re.escape(stack.place.gateway_url)}/gmail/connect/[0-9a-f]+", str(found["data"]))
            assert link, found["data"]
            return link.group()
        await asyncio.sleep(0.25)
    raise AssertionError("no link was published within a minute")
