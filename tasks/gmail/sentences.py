"""How a Gmail run ends, in one sentence. Pure."""

from collections.abc import Iterable

from tasks.gmail.profile import Profile, other_address


def connected(
    user: str, profile: Profile, login_email: str | None, not_granted: Iterable[str], email_before: str | None
) -> str:
    """What connect-gmail achieved.

    >>> connected("42", Profile("7", "ada@example.org", name="Ada Lovelace"), None, [], None)
    'user 42 connected as Ada Lovelace <ada@example.org>.'
    """
    parts = [f"user {user} connected as {profile.called}", *_address(profile, login_email)]
    if email_before and email_before != profile.email:
        parts.append(f"this replaces {email_before}")
    if missing := ", ".join(not_granted):
        parts.append(f"not granted: {missing}, so what needs it stays empty")
    return "; ".join(parts) + "."


def refreshed(user: str, profile: Profile, login_email: str | None) -> str:
    """What refresh-gmail-profile saw.

    >>> refreshed("42", Profile("7", "ada@gmail.com", messages_total=3), "ada@example.org")
    'profile of user 42 refreshed: ada@gmail.com; 3 messages; logs in as ada@example.org, which was kept.'
    """
    parts = [f"profile of user {user} refreshed: {profile.called}"]
    if profile.messages_total is not None:
        parts.append(f"{profile.messages_total} messages")
    if profile.language:
        parts.append(f"language {profile.language}")
    return "; ".join([*parts, *_address(profile, login_email)]) + "."


def _address(profile: Profile, login_email: str | None) -> list[str]:
    return [f"logs in as {login_email}, which was kept"] if other_address(login_email, profile.email) else []
