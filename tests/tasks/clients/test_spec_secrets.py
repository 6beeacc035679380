"""What looks like a secret in a spec is refused, with the block that it belongs in, and never shown."""

import json

import pytest

from tasks.clients.provisioning import check_input
from tasks.clients.secrets import redact
from tasks.errors import InvalidInput
from tasks.registry.spec import SpecChanges, ZeroSpec, check

REST = "A1B2C3D4E5F6G7H8"


@pytest.mark.parametrize(
    "value",
    [
        f"{start}{REST}"
        for start in ("sk-live-", "sk_live_", "ghp_", "github_pat_", "xoxb-", "AKIA", "AIza", "GOCSPX-", "-----BEGIN ")
    ]
    + [f'{{"key": "sk_live_{REST}"}}'],
)
def test_a_value_that_begins_like_a_known_key_is_refused_and_not_shown(value):
    with pytest.raises(InvalidInput, match="extra_env has SETTING, whose value looks like a secret") as caught:
        check_input("acme", SpecChanges(extra_env={"SETTING": value}))
    assert REST not in str(caught.value)
    assert "secret_env of the block zero-acme," in str(caught.value)


@pytest.mark.parametrize("value", ["debug", "task-live-1", "AKIA", "disk_live_view", "https://example.org/AIza"])
def test_a_plain_value_passes(value):
    check(ZeroSpec(extra_env={"SETTING": value}))


@pytest.mark.parametrize("extra", [{"MY_TOKEN": "hunter22"}, {"SETTING": "https://u:hunter22@example.org"}])
def test_the_block_is_named_where_the_client_is_known_and_described_where_not(extra):
    with pytest.raises(InvalidInput, match="secret_env of the block zero-acme-2,") as caught:
        check(ZeroSpec(extra_env=extra), "acme-2")
    assert "hunter22" not in str(caught.value)
    with pytest.raises(InvalidInput, match=r"secret_env of the client's block \(zero- and its slug\),"):
        check(ZeroSpec(extra_env=extra))


def test_a_secret_of_several_lines_is_hidden_however_it_is_printed():
    key = '-----BEGIN KEY-----\nabc"def\\ghi\n-----END KEY-----'
    for printed in (key, json.dumps({"key": key}), 'cut off: abc"def\\ghi'):
        assert "abc" not in redact(printed, [key]), printed
