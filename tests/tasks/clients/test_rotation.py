"""Which values come next: what the operator saved is honoured, what cannot be is refused in words without a value."""

import pytest

from tasks.clients.rotation import next_values, with_new
from tasks.clients.secrets import Secrets
from tasks.errors import FleetError

OWN = Secrets(
    database_password="old-password", better_auth_secret="old-auth", autumn_key="old-key", api_token="old-token"
)


def given(**pending: str) -> Secrets:
    from dataclasses import replace

    return replace(OWN, pending=pending)


def test_new_values_are_made_for_what_is_asked_and_nothing_else_changes():
    values = next_values(OWN, ["api_token", "better_auth_secret"], "zero-acme", "")
    assert set(values) == {"api_token", "better_auth_secret"} and len(values["better_auth_secret"]) == 64
    changed = with_new(given(**values))
    assert (changed.database_password, changed.autumn_key) == ("old-password", "old-key")
    assert changed.api_token == values["api_token"] and changed.pending == {}


def test_a_fleets_new_autumn_key_is_taken():
    assert next_values(OWN, ["autumn_key"], "zero-acme", "fleet-key") == {"autumn_key": "fleet-key"}


@pytest.mark.parametrize(
    ("own", "which", "fleet", "says"),
    [
        (given(api_token="hunter22"), ["autumn_key"], "", "api_token among its next values"),
        (given(nonsense="hunter22"), ["api_token"], "", "nonsense among its next values"),
        (given(api_token="old-token"), ["api_token"], "", "is empty or the one that there is"),
        (OWN, ["autumn_key"], "old-key", "save the new key in the block autumn-key first"),
    ],
)
def test_what_cannot_be_is_refused_without_its_value(own, which, fleet, says):
    with pytest.raises(FleetError, match=says) as caught:
        next_values(own, which, "zero-acme", fleet)
    assert "hunter22" not in str(caught.value) and "old-" not in str(caught.value)
