"""A client's secrets: what the operator filled is honoured, only what is empty is made. Pure but for the randomness."""

import base64
import hashlib
import hmac
import json
import re
import secrets as randomness
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import quote


@dataclass(frozen=True)
class Secrets:
    """What is secret of one client's Zero; a plain copy of its ZeroSecrets block."""

    database_password: str = field(default="", repr=False)
    better_auth_secret: str = field(default="", repr=False)
    autumn_key: str = field(default="", repr=False)
    api_token: str = field(default="", repr=False)
    google_client_id: str = field(default="", repr=False)
    google_client_secret: str = field(default="", repr=False)
    redis_token: str = field(default="", repr=False)
    secret_env: dict[str, str] = field(default_factory=dict, repr=False)
    pending: dict[str, str] = field(default_factory=dict, repr=False)
    """New values by field, of a rotation that is to come or under way."""

    def values(self) -> list[str]:
        """Every secret value, for redaction."""
        return [
            self.database_password,
            self.better_auth_secret,
            self.autumn_key,
            self.api_token,
            self.google_client_secret,
            self.redis_token,
            *self.secret_env.values(),
            *self.pending.values(),
        ]


def fill(given: Secrets, fleet_autumn_key: str = "") -> Secrets:
    """``given`` with its empty fields filled; fields that only a person can know stay empty.

    Args:
        fleet_autumn_key: taken for an empty Autumn key before one is generated.

    >>> fill(Secrets(api_token="mine")).api_token
    'mine'
    >>> len(fill(Secrets()).better_auth_secret)
    64
    """
    return replace(
        given,
        database_password=given.database_password or randomness.token_urlsafe(24),
        better_auth_secret=given.better_auth_secret or randomness.token_hex(32),
        autumn_key=given.autumn_key or fleet_autumn_key or randomness.token_urlsafe(32),
        api_token=given.api_token or randomness.token_urlsafe(32),
    )


def fingerprint(value: str, key: str) -> str:
    """A keyed hash of ``value``: shows that it changed, and nobody without ``key`` can try values against it.

    >>> fingerprint("a", "k") != fingerprint("a", "l")
    True
    """
    return hmac.new(key.encode(), value.encode(), hashlib.sha256).hexdigest()[:16]


LINE = 8
"""Characters that a line of a secret of several lines must have to be hidden by itself."""
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):([^\s@]+)@")


def redact(text: str, values: Iterable[str]) -> str:
    """``text`` without ``values``, plain, percent-encoded or in base64, and without the password of any URL.

    >>> redact("login hunter22 at postgres://u:p%40@h/db", ["hunter22"])
    'login *** at postgres://u:***@h/db'
    """
    for value in sorted((value for value in values if len(value) >= 4), key=len, reverse=True):
        # As it is, in a URL, in base64, as JSON and Node print it, and each line of one that has several.
        forms = [value, quote(value, safe=""), base64.b64encode(value.encode()).decode(), json.dumps(value)[1:-1]]
        forms += [line for line in value.splitlines() if len(line) >= LINE and line != value]
        for form in forms:
            text = text.replace(form, "***")
    return _URL_PASSWORD.sub(r"\1:***@", text)
