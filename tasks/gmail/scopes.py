"""Scopes: what a user granted, and which fields may be asked for because of it."""

from collections.abc import Iterable

_GMAIL = "https://www.googleapis.com/auth/gmail."
_MAIL = "https://mail.google.com/"
_SAME = {
    "https://www.googleapis.com/auth/userinfo.email": "email",
    "https://www.googleapis.com/auth/userinfo.profile": "profile",
}
# Taken from Gmail's discovery document (users.getProfile, users.settings.getLanguage); a test compares.
PROFILE_SCOPES = frozenset({_MAIL, *(_GMAIL + part for part in ("compose", "metadata", "modify", "readonly"))})
LANGUAGE_SCOPES = frozenset({_MAIL, *(_GMAIL + part for part in ("modify", "readonly", "settings.basic"))})
IDENTITY_SCOPES = frozenset({"openid", "email", "profile"})


def normal(scopes: Iterable[str]) -> frozenset[str]:
    """``scopes`` under one name each: Google answers ``email`` and ``profile`` by their long names.

    >>> sorted(normal(["openid", "https://www.googleapis.com/auth/userinfo.email"]))
    ['email', 'openid']
    """
    return frozenset(_SAME.get(scope, scope) for scope in scopes if scope)


def not_granted(asked: Iterable[str], granted: Iterable[str]) -> list[str]:
    """The scopes that were asked for and that the user did not tick, by their short names, sorted.

    >>> not_granted(["openid", "https://www.googleapis.com/auth/gmail.readonly"], ["openid"])
    ['gmail.readonly']
    """
    return sorted(scope.rsplit("/auth/", 1)[-1] for scope in normal(asked) - normal(granted))


def may_identify(granted: Iterable[str]) -> bool:
    """Whether userinfo will say who this is: e-mail or names, not the opaque ``sub`` alone."""
    return bool(normal(granted) & {"email", "profile"})


def may_count(granted: Iterable[str]) -> bool:
    """Whether Gmail's getProfile (numbers of messages and threads) may be called."""
    return bool(normal(granted) & PROFILE_SCOPES)


def may_read_language(granted: Iterable[str]) -> bool:
    """Whether Gmail's settings.getLanguage may be called."""
    return bool(normal(granted) & LANGUAGE_SCOPES)
