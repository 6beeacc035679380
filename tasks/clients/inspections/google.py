"""Trying the client's Google id and secret at the token endpoint, with a code that nobody ever gave out."""

from urllib.parse import urlsplit

from tasks.addresses import is_loopback
from tasks.clients.diagnosis import Check, Line, bad, good, unknown
from tasks.clients.environment import GoogleClient

SECONDS = 10.0
GOOGLE = frozenset({"oauth2.googleapis.com", "www.googleapis.com", "accounts.google.com"})
CREDENTIALS = "https://console.cloud.google.com/apis/credentials"


def trusted(url: str) -> bool:
    """Whether a secret may be sent to ``url``: Google over https, or this machine's loopback.

    >>> trusted("https://oauth2.googleapis.com/token"), trusted("http://127.0.0.1:4002/oauth2/token")
    (True, True)
    >>> trusted("http://oauth2.googleapis.com/token"), trusted("https://oauth2.googleapis.com@evil.example/token")
    (False, False)
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.username is not None or any(ord(character) <= 32 or character == "\\" for character in url):
        return False
    if is_loopback(host):
        return parts.scheme in ("http", "https")
    return parts.scheme == "https" and host in GOOGLE and port in (None, 443)


def meaning(code: int, word: str, where: str, block: str) -> Line:
    """What the endpoint's answer to a bogus code says of id and secret.

    Args:
        word: the answer's ``error``.
        where: the host asked.
        block: where the client's id and secret are kept.

    >>> meaning(400, "invalid_grant", "oauth2.googleapis.com", "google-zero").verdict.value
    'good'
    """
    check = Check.GOOGLE
    if word == "invalid_grant":
        return good(check, f"{where} takes id and secret (it refused only our made-up code)")
    if word in ("invalid_client", "unauthorized_client", "deleted_client"):
        return bad(
            check,
            f"{where} refuses the client's id or secret ({word})",
            f"copy both again from {CREDENTIALS} into the block {block}, and run provision-client",
        )
    if word == "redirect_uri_mismatch":
        return bad(
            check,
            f"{where} takes id and secret, and does not know the redirect URI",
            f"register it at {CREDENTIALS}, exactly as the line Redirect URI has it",
        )
    return unknown(check, f"{where} answers {code}{f' ({word})' if word else ''}, which says nothing of id and secret")


async def google_line(google: GoogleClient | None, redirect: str, slug: str, block: str) -> Line:
    """Ask the endpoint once.

    Args:
        redirect: the client's redirect URI, which is sent along as at a login.
        block: where its id and secret are kept.
    """
    import httpx

    check = Check.GOOGLE
    if google is None:
        return unknown(check, "there is no Google client to try (see Blocks)")
    if not trusted(google.token_uri):
        return bad(
            check,
            "the block's token endpoint is neither Google's over https nor on this machine, so the secret was not sent",
            "put https://oauth2.googleapis.com/token back into the block",
        )
    where = urlsplit(google.token_uri).netloc
    form = {
        "grant_type": "authorization_code",
        "code": f"zero-fleet-diagnosis-of-{slug}",
        "client_id": google.client_id,
        "client_secret": google.client_secret,
        "redirect_uri": redirect,
    }
    try:
        async with httpx.AsyncClient(timeout=SECONDS, follow_redirects=False) as http:
            answer = await http.post(google.token_uri, data=form, headers={"Accept": "application/json"})
    except httpx.HTTPError as error:
        return unknown(
            check,
            f"{where} cannot be reached from here ({type(error).__name__}), so id and secret were not tried",
            "look at this machine's way to the internet, and run again",
        )
    try:
        said = answer.json()
        word = said.get("error", "") if isinstance(said, dict) else ""
    except ValueError:
        word = ""
    return meaning(answer.status_code, word if isinstance(word, str) and word.isascii() else "", where, block)
