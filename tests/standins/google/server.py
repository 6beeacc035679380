"""What stands at the stand-in's port: the emulator's OAuth passed through, and of Gmail what we ask and it lacks.

The emulator takes any unknown bearer token for its first user, has no getProfile and no language, and does not look at
scopes. So its first user is a decoy that nobody may be, and its userinfo decides here whether a token is good.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

DECOY = "nobody@stand-in.invalid"
COUNTING = ("gmail.readonly", "gmail.modify", "gmail.compose", "gmail.metadata")
SPEAKING = ("gmail.readonly", "gmail.modify", "gmail.settings.basic")


@dataclass
class StandIn:
    """The stand-in's memory: where the emulator is, and which token was given for which scopes."""

    emulator: str
    scopes: dict[str, list[str]] = field(default_factory=dict)
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=10, trust_env=False))

    async def forward(self, request: Request) -> Response:
        """Pass a request on to the emulator as it is."""
        reply = await self.http.request(
            request.method,
            f"{self.emulator}{request.url.path}",
            params=request.query_params.multi_items(),
            content=await request.body(),
            headers={
                name: value
                for name, value in request.headers.items()
                if name in ("content-type", "authorization", "accept")
            },
        )
        kept = {name: reply.headers[name] for name in ("content-type", "location") if name in reply.headers}
        return Response(reply.content, reply.status_code, kept)

    async def token(self, request: Request) -> Response:
        """The emulator's token endpoint; what it gives is remembered with its scopes."""
        response = await self.forward(request)
        if response.status_code == 200:
            given = json.loads(bytes(response.body))
            self.scopes[given["access_token"]] = given["scope"].split()
        return response

    async def userinfo(self, request: Request) -> Response:
        """The emulator's userinfo, without its decoy: an unknown or revoked token is refused as Google refuses it."""
        response = await self.forward(request)
        if response.status_code != 200 or DECOY.encode() in bytes(response.body):
            return JSONResponse({"error": "invalid_request", "error_description": "Invalid Credentials"}, 401)
        return response

    def gmail(self, needed: tuple[str, ...], answer: dict[str, Any]) -> Callable[[Request], Any]:
        """A Gmail resource that any of the scopes ``needed`` opens."""

        async def handle(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            who = await self.http.get(f"{self.emulator}/oauth2/v2/userinfo", headers={"authorization": given})
            if who.status_code != 200 or DECOY in who.text:
                return _refusal(401, "UNAUTHENTICATED", "authError", "Invalid Credentials")
            token = given.partition(" ")[2]
            if not any(scope.endswith(needed) for scope in self.scopes.get(token, [])):
                return _refusal(
                    403,
                    "PERMISSION_DENIED",
                    "insufficientPermissions",
                    "Request had insufficient authentication scopes.",
                )
            return JSONResponse(answer)

        return handle


def _refusal(code: int, status: str, reason: str, message: str) -> Response:
    """An error in the form of https://developers.google.com/workspace/gmail/api/guides/handle-errors."""
    row = {"message": message, "domain": "global", "reason": reason}
    return JSONResponse({"error": {"code": code, "message": message, "errors": [row], "status": status}}, code)


def build(emulator: str, email: str, ready: Callable[[], None]) -> Starlette:
    """The stand-in's application in front of the emulator at ``emulator``; calls ``ready`` when it serves."""
    here = StandIn(emulator)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        ready()
        yield
        await here.http.aclose()

    counts = {"emailAddress": email, "messagesTotal": 1815, "threadsTotal": 843, "historyId": "1852"}

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        lifespan=life,
        routes=[
            Route("/health", health),
            Route("/o/oauth2/v2/auth", here.forward),
            Route("/o/oauth2/v2/auth/callback", here.forward, methods=["POST"]),
            Route("/oauth2/token", here.token, methods=["POST"]),
            Route("/oauth2/revoke", here.forward, methods=["POST"]),
            Route("/oauth2/v2/userinfo", here.userinfo),
            Route("/gmail/v1/users/me/profile", here.gmail(COUNTING, counts)),
            Route("/gmail/v1/users/me/settings/language", here.gmail(SPEAKING, {"displayLanguage": "en-GB"})),
        ],
    )
