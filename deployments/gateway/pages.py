"""The gateway's pages: one sentence each, nothing loaded from anywhere, nothing of the request repeated unescaped."""

import base64
import hashlib
from html import escape

from starlette.responses import HTMLResponse, PlainTextResponse

_STYLE = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1rem;color:#222}"
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer. No referrer: the callback's address holds a code."""


def page(title: str, sentence: str, status: int) -> HTMLResponse:
    """A page with a title and a sentence, both as plain text."""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><p>{escape(sentence)}</p></body></html>\n",
        status_code=status,
    )


def plain(title: str, sentence: str, status: int) -> PlainTextResponse:
    """The same for a program: the sentence alone."""
    return PlainTextResponse(f"{sentence}\n", status_code=status)
