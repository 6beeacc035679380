"""Google's ``credentials.json`` (GMAIL_CREDENTIALS_FILE), read once into values for the block ``google-gmail``."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import InvalidInput, NotFound

CURE = "download it again from Google Cloud's page Credentials: an OAuth client of type Web application"


@dataclass(frozen=True)
class ClientCredentials:
    """An OAuth client as Google's file holds it."""

    client_id: str
    client_secret: str = field(repr=False)
    auth_uri: str
    token_uri: str
    redirect_uris: tuple[str, ...]


def read_credentials_file(path: Path) -> ClientCredentials:
    """The client in Google's ``credentials.json`` at ``path``, read by google-auth-oauthlib.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read, is no JSON, is no client of type web or installed, or lacks its secret.
    """
    from google_auth_oauthlib.flow import Flow

    if not path.is_file():
        raise NotFound(f"GMAIL_CREDENTIALS_FILE {path} does not exist", f"correct the path, or {CURE}")
    try:
        config = Flow.from_client_secrets_file(str(path), scopes=None).client_config
    except OSError as error:
        raise InvalidInput(
            f"GMAIL_CREDENTIALS_FILE {path} cannot be read ({error.strerror})", "correct its rights"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InvalidInput(f"GMAIL_CREDENTIALS_FILE {path} is no JSON", CURE) from None
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(
            f"GMAIL_CREDENTIALS_FILE {path} is no client of type web or installed (a service account's key is another file)",
            CURE,
        ) from None
    client_id, secret = config.get("client_id"), config.get("client_secret")
    if not isinstance(client_id, str) or not client_id or not isinstance(secret, str) or not secret:
        raise InvalidInput(f"GMAIL_CREDENTIALS_FILE {path} has no client_id or no client_secret", CURE)
    redirects = config.get("redirect_uris")
    return ClientCredentials(
        client_id=client_id,
        client_secret=secret,
        auth_uri=str(config["auth_uri"]),
        token_uri=str(config["token_uri"]),
        redirect_uris=tuple(str(uri) for uri in redirects) if isinstance(redirects, list) else (),
    )
