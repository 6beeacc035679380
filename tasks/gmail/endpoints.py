"""Where Google is, and where Google sends the user back to. Pure: nothing here opens a connection."""

from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from tasks.addresses import is_loopback
from tasks.errors import NotConfigured

GOOGLE_HOSTS = frozenset(
    {
        "accounts.google.com",
        "oauth2.googleapis.com",
        "openidconnect.googleapis.com",
        "www.googleapis.com",
        "gmail.googleapis.com",
    }
)
PERMISSIONS_PAGE = "https://myaccount.google.com/permissions"
CALLBACK_PATH = "/gmail/callback/"


class Secret(Protocol):
    """A value that shows itself only when asked (pydantic's SecretStr)."""

    def get_secret_value(self) -> str:
        """The value."""
        ...


class ClientFields(Protocol):
    """The fields of the block ``google-gmail``."""

    client_id: str
    scopes: list[str]
    auth_uri: str
    token_uri: str
    revoke_uri: str
    userinfo_uri: str
    gmail_api: str

    @property
    def client_secret(self) -> Secret:
        """The client's secret."""
        ...


@dataclass(frozen=True)
class OAuthClient:
    """An OAuth web client and the endpoints it speaks to; a frozen copy of the block ``google-gmail``."""

    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...]
    auth_uri: str
    token_uri: str
    revoke_uri: str
    userinfo_uri: str
    gmail_api: str


def client_of(block: ClientFields) -> OAuthClient:
    """The client in the block ``google-gmail``, checked by ``require_endpoints``."""
    return require_endpoints(
        OAuthClient(
            client_id=block.client_id,
            client_secret=block.client_secret.get_secret_value(),
            scopes=tuple(block.scopes),
            auth_uri=block.auth_uri,
            token_uri=block.token_uri,
            revoke_uri=block.revoke_uri,
            userinfo_uri=block.userinfo_uri,
            gmail_api=block.gmail_api,
        )
    )


def require_endpoints(client: OAuthClient) -> OAuthClient:
    """``client`` if it is filled and each of its endpoints is Google's own over https, or on this machine's loopback.

    A client secret and tokens are sent to these addresses: a mistyped one would give them away.

    Raises:
        NotConfigured: an empty client id, no scopes, or an endpoint that is neither; the sentence names it.
    """
    if not client.client_id.strip() or not client.client_secret.strip():
        raise NotConfigured(
            "the block google-gmail has no client ID or no client secret",
            "fill both from Google Cloud's page Credentials, or set GMAIL_CREDENTIALS_FILE and run `make up`",
        )
    if not client.scopes:
        raise NotConfigured("the block google-gmail asks for no scopes", "fill in openid, email and profile")
    for name in ("auth_uri", "token_uri", "revoke_uri", "userinfo_uri", "gmail_api"):
        if not is_trusted(getattr(client, name)):
            raise NotConfigured(
                f"{name} of the block google-gmail is {shown(getattr(client, name))!r}, which is not Google's",
                "put Google's address back (others are allowed on this machine's loopback only)",
            )
    return client


def is_trusted(url: str) -> bool:
    """Whether secrets may be sent to ``url``: Google over https, or loopback.

    >>> is_trusted("https://oauth2.googleapis.com/token"), is_trusted("http://127.0.0.1:4002/token")
    (True, True)
    >>> is_trusted("http://oauth2.googleapis.com/token"), is_trusted("https://oauth2.googleapis.com@evil.example/token")
    (False, False)
    """
    parts = _split(url)
    if parts is None or parts.username is not None or parts.password is not None:
        return False
    if is_loopback(parts.hostname or ""):
        return parts.scheme in ("http", "https")
    return parts.scheme == "https" and parts.hostname in GOOGLE_HOSTS and parts.port in (None, 443)


def redirect_uri(gateway_url: str) -> str:
    """Where Google sends the user back to; to be registered in Google Cloud exactly so.

    Args:
        gateway_url: the gateway's public base URL, a setting.

    Raises:
        NotConfigured: it is no URL, or one that Google would not redirect to
            (https://developers.google.com/identity/protocols/oauth2/web-server#uri-validation).

    >>> redirect_uri("http://localhost:8000/")
    'http://localhost:8000/gmail/callback/'
    """
    parts = _split(gateway_url)
    if parts is None or not parts.hostname or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise NotConfigured(
            f"GATEWAY_URL is {shown(gateway_url)!r}, which is no base URL",
            "set it to one like https://fleet.example.org",
        )
    if parts.username is not None:
        raise NotConfigured("GATEWAY_URL holds a user name", "take the part before @ out of it")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise NotConfigured(
            f"GATEWAY_URL is {shown(gateway_url)!r}, and Google sends nobody back to http but on localhost",
            "give the gateway an https address",
        )
    return gateway_url.rstrip("/") + CALLBACK_PATH


def shown(url: str) -> str:
    """``url`` as it may be shown: without a user, a query or a fragment, at most 100 characters.

    >>> shown("https://me:secret@example.org/x?token=1")
    'https://example.org/x'
    """
    parts = _split(url)
    if parts is None:
        return "(unreadable)"
    return SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "").geturl()[:100]


def _split(url: str) -> SplitResult | None:
    if any(ord(character) <= 32 or character == "\\" for character in url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
