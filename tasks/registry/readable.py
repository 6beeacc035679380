"""What everybody who reads runs may read: a spec's values and a flow's parameters. What looks like a secret is refused. Pure."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from tasks.errors import InvalidInput
from tasks.registry.names import ClientNames

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r".*(SECRET|TOKEN|PASSWORD|KEY)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9])(sk-live-|sk_live_|ghp_|github_pat_|xoxb-|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{16}|GOCSPX-|-----BEGIN)"
)
"""How keys of Stripe and its like, GitHub, Slack, AWS and Google begin, and anything in PEM."""


def refuse_secrets(field: str, variables: Mapping[str, str], cure: str, readable: str = "a spec") -> None:
    """Refuse names that are none of a variable, and what looks like a secret (a name that starts with NEXT_PUBLIC_ does not).

    Args:
        field: whose ``variables`` they are: ``extra_env``.
        cure: what to do with a secret instead.
        readable: what everybody may read.

    Raises:
        InvalidInput: with the variable, never its value.

    >>> refuse_secrets("build_args", {"NPM_TOKEN": "x"}, "leave it out")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: build_args has NPM_TOKEN, which looks like a secret, and a spec is readable by everybody who reads runs; leave it out.
    """
    for name, value in variables.items():
        if not _ENV_NAME.fullmatch(name):
            raise InvalidInput(
                f"{field} has {name[:60]!r}, which is no name of a variable", "use letters, digits and _"
            )
        refuse_nul(field, name, value)
        named = _SECRET_NAME.fullmatch(name) and not name.startswith("NEXT_PUBLIC_")
        if named or _SECRET_VALUE.search(value):
            what = "which looks" if named else "whose value looks"
            raise InvalidInput(
                f"{field} has {name}, {what} like a secret, and {readable} is readable by everybody who reads runs",
                cure,
            )
        refuse_userinfo(f"{field} {name}", value, cure, readable)


def refuse_nul(field: str, name: str, value: str) -> None:
    """Refuse a value that no environment can hold: a container that has it is made, and does not start.

    Raises:
        InvalidInput: with the variable, never its value.

    >>> refuse_nul("extra_env", "MOTTO", "all\\0 well")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: extra_env has MOTTO, whose value has a NUL character in it; take that out.
    """
    if "\0" in value:
        raise InvalidInput(f"{field} has {name}, whose value has a NUL character in it", "take that out")


def refuse_userinfo(field: str, url: str, cure: str, readable: str = "a spec") -> None:
    """Refuse a URL that carries a user or a password.

    Raises:
        InvalidInput: without the value.
    """
    try:
        found = "://" in url and "@" in urlsplit(url).netloc
    except ValueError:
        found = "@" in url
    if found:
        raise InvalidInput(
            f"{field} is a URL with a user or password in it, and {readable} is readable by everybody who reads runs",
            cure,
        )


def into_secret_env(client: str) -> str:
    """The cure for a secret in the environment: the block of ``client`` ("" where it is not known) that takes it.

    >>> into_secret_env("acme")
    'put it into secret_env of the block zero-acme, delete this run and rotate the value'
    """
    block = f"block {ClientNames(client).secrets_block}" if client else "client's block (zero- and its slug)"
    return f"put it into secret_env of the {block}, delete this run and rotate the value"
