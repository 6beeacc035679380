"""Deployment runs, started and watched over Prefect's API as any other program would."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

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
        answer = await self._http.get(path)
        if answer.status_code == 404:
            return None
        return self._checked(answer)

    async def post(self, path: str, body: Any) -> Any:
        """The JSON answer to POST ``path``."""
        return self._checked(await self._http.post(path, json=body))

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
        run = await self.post(
            f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        )
        return str(run["id"])

    async def wait(self, run: str, deadline: float, meanwhile: Callable[[], Awaitable[None]] | None = None) -> Ended:
        """Wait until ``run`` has ended, at most ``deadline`` seconds; ``meanwhile`` is called at every look.

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
                await meanwhile()
            await asyncio.sleep(POLL_SECONDS)
        raise Unreachable(f"the run {run} had not ended after {deadline:.0f} s", "look at it in the UI")
