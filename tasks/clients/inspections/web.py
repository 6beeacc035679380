"""Looking at what Zero serves: its probe, and the addresses that its browser code was built with."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from tasks.clients import readiness
from tasks.clients.diagnosis import Check, Line, bad, good, quantity, unknown
from tasks.registry.spec import Probe

if TYPE_CHECKING:
    import httpx

SECONDS = 15.0
"""For the page and its scripts together."""
SCRIPTS, LONGEST = 15, 3_000_000
_SCRIPT = re.compile(r"""(?:src|href)=["']([^"'<>]+\.js[^"'<>]*)["']""")
_PORTED = re.compile(r"\bhttps?://(?:[A-Za-z0-9.-]+|\[::1\]):\d{2,5}\b")
_NAMED = re.compile(r"""NEXT_PUBLIC_(?:APP|BACKEND)_URL["']?\s*[:=]\s*["'](https?://[^"'\s\\]+)""")
_OWN = re.compile(r"\bhttps?://(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{2,5})?(?![\w.:-])")


async def answer_line(base: str, probes: Sequence[Probe], running: bool, slug: str) -> Line:
    """Whether the service answers as its probe wants."""
    check = Check.ANSWER
    if not running:
        return unknown(check, "it does not run, so it was not asked")
    async with readiness.http_client() as http:
        fitting, heard = await readiness.first_good(http, base, probes)
    said = ", ".join(str(answer) for answer in heard)
    if fitting is None:
        return bad(
            check, f"{base} is not healthy: {said}", f"run restart-zero for {slug}, and read zero-logs when it stays so"
        )
    return good(check, f"{base}{fitting.path} answers as wanted")


def foreign_addresses(texts: Iterable[str], public: str) -> tuple[set[str], bool]:
    """Addresses of applications other than ``public`` that stand in ``texts``, and whether ``public`` itself does.

    Any address with a port counts, any on this machine, and any that is named as Zero's own.

    >>> foreign_addresses(['a="http://localhost:3000/api"'], "http://localhost:20000")
    ({'http://localhost:3000'}, False)
    """
    found, own = set(), False
    for text in texts:
        for url in (*_PORTED.findall(text), *_OWN.findall(text), *_NAMED.findall(text)):
            origin = _origin(url)
            if origin == _origin(public):
                own = True
            elif origin:
                found.add(origin)
        own = own or public in text
    return found, own


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port and port != usual else "")


async def browser_line(base: str, public: str, running: bool, slug: str) -> Line:
    """Whether the browser's code speaks to the public URL: it is fixed when the image is built, not when it starts."""
    import httpx

    check = Check.BROWSER
    if not running:
        return unknown(check, "it does not run, so it was not asked")
    try:
        async with asyncio.timeout(SECONDS), readiness.http_client() as http:
            texts = await _served(http, base)
    except (TimeoutError, httpx.HTTPError) as error:
        return unknown(check, f"{base}/ was not served ({type(error).__name__})")
    found, own = foreign_addresses(texts, public)
    what = quantity(len(texts), "file")
    if found and not own:
        return bad(
            check,
            f"the code that it serves speaks to {', '.join(sorted(found)[:5])}, and its public URL is {public}",
            f"build an image for {slug} with build_args NEXT_PUBLIC_APP_URL={public} and NEXT_PUBLIC_BACKEND_URL={public} "
            "(build-zero-image), or give it the host_port or domain that it was built for",
        )
    if found:
        return good(
            check, f"{public} is in the code that it serves; so is {', '.join(sorted(found)[:5])} ({what} read)"
        )
    return good(check, f"no other address than {public} is in the code that it serves ({what} read)")


async def _served(http: "httpx.AsyncClient", base: str) -> list[str]:
    """The first page and its own scripts; redirects are followed within the service."""
    url = base + "/"
    for _ in range(4):
        answer = await _get(http, url)
        onward = answer.headers.get("location")
        if not (answer.is_redirect and onward):
            break
        target = urljoin(url, onward)
        # A redirect to the public URL leads back here, by its path.
        url = base + (urlsplit(target).path or "/")
    texts = [answer.text[:LONGEST]]
    scripts = {urljoin(url, link) for link in _SCRIPT.findall(texts[0])}
    for script in sorted(link for link in scripts if link.startswith(base))[:SCRIPTS]:
        found = await _get(http, script)
        if found.status_code == 200:
            texts.append(found.text[:LONGEST])
    return texts


async def _get(http: "httpx.AsyncClient", url: str) -> "httpx.Response":
    """One answer, cut where it is endless."""
    import httpx

    async with http.stream("GET", url) as response:
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > LONGEST:
                break
    return httpx.Response(response.status_code, headers=_plain(response.headers), content=body)


def _plain(headers: "httpx.Headers") -> dict[str, str]:
    """Without what said how the body came."""
    return {name: headers[name] for name in ("content-type", "location") if name in headers}
