"""Google's files that the settings name: read once, never written."""

from dataclasses import dataclass, field
from pathlib import Path

from deployments.bootstrap.environment import Environment
from deployments.bootstrap.refusals import Refusals
from tasks.errors import InvalidInput
from tasks.gmail.credentials_file import ClientCredentials, read_credentials_file
from tasks.gmail.oauth import GrantedTokens
from tasks.gmail.token_file import read_token_file
from tasks.registry.names import require_user


@dataclass(frozen=True)
class Grant:
    """The content of GMAIL_TOKEN_FILE and whose it is."""

    user: str
    tokens: GrantedTokens = field(repr=False)


@dataclass(frozen=True)
class GoogleFiles:
    """What the files say."""

    client: ClientCredentials | None = None
    grant: Grant | None = None


def read_google_files(environment: Environment) -> GoogleFiles:
    """Read GMAIL_CREDENTIALS_FILE and GMAIL_TOKEN_FILE where they are set.

    Raises:
        BadSettings: a file that is missing or is not what its name says, or a token file without its user.
    """
    refusals = Refusals()
    files = GoogleFiles(refusals.attempt(_client, environment), refusals.attempt(_grant, environment))
    refusals.settle()
    return files


def _client(environment: Environment) -> ClientCredentials | None:
    if not environment.gmail_credentials_file:
        return None
    return read_credentials_file(Path(environment.gmail_credentials_file))


def _grant(environment: Environment) -> Grant | None:
    file, user = environment.gmail_token_file, environment.gmail_token_user
    if not file:
        return None
    if not user:
        raise InvalidInput(
            "GMAIL_TOKEN_FILE is set, but GMAIL_TOKEN_USER is empty",
            "name the user (your site's key of them) whose grant the file holds",
        )
    try:
        require_user(user)
    except InvalidInput as refused:
        raise InvalidInput(f"GMAIL_TOKEN_USER: {refused.what}", refused.cure) from None
    return Grant(user, read_token_file(Path(file)))
