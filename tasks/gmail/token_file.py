"""An authorized user's ``token.json`` (GMAIL_TOKEN_FILE) of the old way: imported once, never written."""

from datetime import UTC
from pathlib import Path

from tasks.errors import InvalidInput, NotFound
from tasks.gmail.oauth import GrantedTokens

CURE = "give the token.json that google-auth wrote, or run connect-gmail for the user instead"


def read_token_file(path: Path) -> GrantedTokens:
    """The tokens in ``path``, read by google-auth. They work only with the OAuth client that they were granted to.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read, is no JSON, or lacks the refresh token.
    """
    from google.oauth2.credentials import Credentials

    if not path.is_file():
        raise NotFound(f"GMAIL_TOKEN_FILE {path} does not exist", "correct the path, or leave GMAIL_TOKEN_FILE out")
    try:
        credentials = Credentials.from_authorized_user_file(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise InvalidInput(f"GMAIL_TOKEN_FILE {path} cannot be read ({error.strerror})", "correct its rights") from None
    except (ValueError, AttributeError, TypeError, KeyError):  # no JSON, a field missing, or a date in another form
        raise InvalidInput(f"GMAIL_TOKEN_FILE {path} holds no token of an authorized user", CURE) from None
    if not credentials.refresh_token:
        raise InvalidInput(f"GMAIL_TOKEN_FILE {path} holds no refresh token", CURE)
    return GrantedTokens(
        access_token=credentials.token or "",
        refresh_token=str(credentials.refresh_token),
        expires_at=credentials.expiry.replace(tzinfo=UTC) if credentials.token and credentials.expiry else None,
        scopes=tuple(credentials.scopes or ()),
    )
