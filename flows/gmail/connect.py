"""connect-gmail: a user lets us read their Google profile."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.gmail.sentences import connected
from tasks.gmail.steps import await_consent, begin_login, redeem, refresh_profile, sweep_login
from tasks.registry.names import require_email, require_user


@flow(name="connect-gmail", flow_run_name="connect Gmail of {user}", persist_result=False, result_storage=NOWHERE)
@told
async def connect_gmail(
    user: Annotated[str, Field(min_length=1, max_length=200)],
    login_email: Annotated[str, Field(max_length=254)] = "",
    wait_minutes: Annotated[int, Field(ge=1, le=60)] = 10,
) -> str:
    """Connect a user's Gmail account: publish a link, wait until the user consented at Google, save the grant, read the profile.

    The link is the artifact gmail-<id> of the run. Give it to the user; it is good once.

    Args:
        user: The site's opaque key of the user, like 42. Not an e-mail address.
        login_email: The address that the user logs in to the site with. Only shown beside the Gmail address, never overwritten.
        wait_minutes: Minutes that the link is good and the run waits for the user.
    """
    require_user(user)
    if login_email:
        require_email(login_email)
    login = await begin_login(user, wait_minutes)
    try:
        await await_consent(login)
        grant = await redeem(login, login_email)
    finally:
        await sweep_login(login)
    profile = await refresh_profile(user)
    return connected(user, profile, login_email, grant.not_granted, grant.email_before)
