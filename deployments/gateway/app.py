"""The gateway: takes users to Google's consent page and Google's callback back to the waiting flow. It exchanges no code.

Besides, it shows figures to Prometheus (``metrics.py``).

It meets the flow connect-gmail in the handshake's blocks (``blocks/gmail.py``); its public address is the setting
GATEWAY_URL, never the request's Host header. Its log holds methods, routes and status codes: no query, no id.
"""

import logging
from collections.abc import Awaitable, Callable

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blocks.documents import DoesNotFit, find
from blocks.gmail import GmailHandshake, GoogleOAuthClient
from blocks.installation import installation
from deployments.gateway.metrics import Metrics
from deployments.gateway.pages import SECURITY_HEADERS, page, plain
from tasks.clock import now
from tasks.errors import FleetError, needed
from tasks.gmail.endpoints import client_of, redirect_uri
from tasks.gmail.handshake import Verdict, authorization_url, id_of_state, is_id, judge_callback, plain_error

log = logging.getLogger("zero_fleet.gateway")
CLIENT_BLOCK = "google-gmail"
Say = Callable[[str, str, int], Response]
LONGEST_QUERY = 8192
"""Bytes; Google's callback has some hundred."""

UNKNOWN = "This link is not known here, or it was used before. Ask for a new one."
EXPIRED = "This link is too old. Ask for a new one."


async def health(request: Request) -> Response:
    """Whether Prefect's API, without which nothing works here, answers: 200 or 503."""
    async with get_client() as client:
        fault = await client.api_healthcheck()
    return JSONResponse(
        {"status": "ok" if fault is None else "degraded", "prefect": fault is None}, 200 if fault is None else 503
    )


async def connect(request: Request) -> Response:
    """Take the user to Google's consent page with the state and the PKCE challenge of the handshake named in the path."""
    ident = request.path_params["id"]
    handshake = await find(GmailHandshake, GmailHandshake.block_name(ident)) if is_id(ident) else None
    if handshake is None or await GmailHandshake.is_saved(GmailHandshake.answer_name(ident)):
        return page("Link not known", UNKNOWN, 404)
    if now() >= handshake.expires_at:
        return page("Link too old", EXPIRED, 410)
    client = client_of(needed(await find(GoogleOAuthClient, CLIENT_BLOCK), CLIENT_BLOCK))
    return RedirectResponse(
        authorization_url(
            client,
            handshake.state.get_secret_value(),
            handshake.code_verifier.get_secret_value(),
            redirect_uri(installation().gateway_url),
        ),
        302,
    )


async def callback(request: Request) -> Response:
    """Take Google's answer: the state is good once and for minutes; the code goes into the handshake's block."""
    query = request.query_params
    state, code, error = query.get("state", ""), query.get("code", ""), plain_error(query.get("error", ""))
    ident = id_of_state(state)
    handshake = await find(GmailHandshake, GmailHandshake.block_name(ident)) if ident else None
    if ident is None or handshake is None:
        return page("Link not known", UNKNOWN, 400)
    verdict = judge_callback(state, code, error, handshake.state.get_secret_value(), handshake.expires_at, now())
    if verdict is Verdict.UNKNOWN:
        return page("Link not known", UNKNOWN, 400)
    if verdict is Verdict.EXPIRED:
        return page("Link too old", EXPIRED, 410)
    if verdict is Verdict.MALFORMED:
        return page("No answer from Google", "Google sent no code. Open the link once more.", 400)
    answer = GmailHandshake(
        user=handshake.user,
        expires_at=handshake.expires_at,
        code=SecretStr("" if error else code),
        error=error,
    )
    if not await answer.save_first(GmailHandshake.answer_name(ident)):
        return page("Link not known", UNKNOWN, 409)
    if error:
        return page(
            "Not connected", "You did not give your consent, so nothing was connected. You can close this window.", 200
        )
    return page(
        "Thank you", "Google's answer has arrived and your account is being connected. You can close this window.", 200
    )


def guarded(route: str, handler: Callable[[Request], Awaitable[Response]], say: Say = page) -> Route:
    """``handler`` at ``route`` for GET alone, with every fault as one sentence and a log line without the query.

    Args:
        say: makes an answer of a title, a sentence and a status.
    """

    async def handle(request: Request) -> Response:
        if request.method != "GET":  # Starlette adds HEAD, which must not use a state up
            response = say("Not possible", "This address can only be read (GET).", 405)
        elif len(request.scope["query_string"]) > LONGEST_QUERY:
            response = say("Link not known", UNKNOWN, 414)
        else:
            response = await _answer(handler, request, route, say)
        log.info("%s %s -> %s", request.method, route, response.status_code)
        return response

    return Route(route, handle, methods=["GET"])


async def _answer(
    handler: Callable[[Request], Awaitable[Response]], request: Request, route: str, say: Say
) -> Response:
    try:
        return await handler(request)
    except (FleetError, DoesNotFit) as error:
        log.error("%s: %s", route, error)
        return say("Not possible right now", "This service is not set up yet. Tell its operator to see its log.", 503)
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        log.error("%s: Prefect's API did not answer (%s)", route, type(error).__name__)
        return say(
            "Not possible right now", "This service cannot reach its server. Open the link again in a minute.", 503
        )
    except Exception as error:  # its text may hold a code
        log.error("%s: unexpected %s", route, type(error).__name__)
        return say("Not possible right now", "Something failed here. Open the link again in a minute.", 500)


class SecurityHeaders:
    """Puts the security headers on every answer, the router's own 404 included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to what comes back."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()),
                ]
            await send(message)

        await self.app(scope, receive, with_headers)


def build_app(metrics: Metrics | None = None) -> ASGIApp:
    """The gateway's ASGI application.

    Args:
        metrics: what answers at /metrics; None: one of its own.
    """
    app = Starlette(
        routes=[
            guarded("/health", health),
            guarded("/gmail/connect/{id}", connect),
            guarded("/gmail/callback/", callback),
            guarded("/metrics", (metrics or Metrics()).answer, plain),
        ]
    )
    # A redirect to add a slash would repeat the query.
    app.router.redirect_slashes = False
    return SecurityHeaders(app)
