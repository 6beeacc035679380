"""refresh-gmail-profile: ask Google again who a connected user is."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.gmail.sentences import refreshed
from tasks.gmail.steps import known_login_email, refresh_profile
from tasks.registry.names import require_user


@flow(
    name="refresh-gmail-profile",
    flow_run_name="refresh Gmail profile of {user}",
    persist_result=False,
    result_storage=NOWHERE,
)
@told
async def refresh_gmail_profile(user: Annotated[str, Field(min_length=1, max_length=200)]) -> str:
    """Read a connected user's profile from Google again; the access token is refreshed only when it is near its end.

    Args:
        user: The site's opaque key of the user, as given to connect-gmail.
    """
    require_user(user)
    profile = await refresh_profile(user)
    return refreshed(user, profile, await known_login_email(user))
