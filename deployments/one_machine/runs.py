"""Deployment runs, started and watched over Prefect's API as any other program would."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import stamina

from deployments.one_machine.settings import Stack
from tasks.errors import FleetError, Unreachable

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Ended:
    """A run that ended: its state, and the sentence it ended with."""

    id: str
    state: str
    message: str
    seconds: float


class _Busy(Unreachable):
    """The server asks to be asked again."""


class Api:
    """Prefect's REST API with the stack's auth string: one GET for a deployment's id, one POST for a run."""

    def __init__(self, place: Stack) -> None:
        user, _, password = place.auth.partition(":")
        self._http = httpx.AsyncClient(base_url=place.api, auth=(user, password), timeout=30)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str) -> Any:
        """The JSON answer to GET ``path``; None when there is no such thing."""
        answer = await self._ask("GET", path)
        return None if answer.status_code == 404 else self._checked(answer)

    async def post(self, path: str, body: Any) -> Any:
        """The JSON answer to POST ``path``."""
        return self._checked(await self._ask("POST", path, json=body))

    async def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            return await self._ask_again(method, path, **given)
        except httpx.TransportError as error:
            raise Unreachable(
                f"Prefect's API does not answer ({type(error).__name__} at {path})",
                "look at `make status` and `make logs`",
            ) from None

    @stamina.retry(on=(httpx.TransportError, _Busy), attempts=8, wait_initial=0.2, wait_max=5.0, timeout=60.0)
    async def _ask_again(self, method: str, path: str, **given: Any) -> httpx.Response:
        answer = await self._http.request(method, path, **given)
        if answer.status_code in (429, 503):  # on SQLite Prefect answers so when another writer was faster
            raise _Busy(f"Prefect's API answered {answer.status_code} to {path}", "try again when it has less to do")
        return answer

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.is_error:
            raise FleetError(
                f"Prefect's API answered {answer.status_code} to {answer.request.url.path} ({answer.text[:200]})",
                "correct the call",
            )
        return answer.json()

    async def start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a run of ``deployment`` (NAME/default); its id."""
        found = await self.get(f"/deployments/name/{deployment}")
        if found is None:
            raise FleetError(f"there is no deployment {deployment}", "run `make up`")
        # With the key a call that is tried again does not start a second run.
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid.uuid4())}
        run = await self.post(f"/deployments/{found['id']}/create_flow_run", body)
        return str(run["id"])

    async def wait(self, run: str, deadline: float, meanwhile: Callable[[str], Awaitable[None]] | None = None) -> Ended:
        """Wait until ``run`` has ended, at most ``deadline`` seconds; ``meanwhile`` is called with its id at every look.

        Raises:
            Unreachable: it had not ended by then.
        """
        started = time.monotonic()
        while time.monotonic() - started < deadline:
            found = await self.get(f"/flow_runs/{run}")
            state = found["state"] or {}
            if state.get("type") in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return Ended(run, state["type"], state.get("message") or "", time.monotonic() - started)
            if meanwhile is not None:
                await meanwhile(run)
            await asyncio.sleep(POLL_SECONDS)
        raise Unreachable(f"the run {run} had not ended after {deadline:.0f} s", "look at it in the UI")
