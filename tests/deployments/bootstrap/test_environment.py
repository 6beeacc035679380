"""Reading the settings: precedence, truth values, refusals; and that everything is documented."""

import re
from pathlib import Path

import pytest

from blocks.installation import Installation
from deployments.bootstrap.environment import Environment, misspelt, read_environment, read_values, unreadable
from deployments.bootstrap.refusals import BadSettings

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / ".env.example"


def test_the_process_goes_before_the_file_and_empty_counts_as_not_set(tmp_path):
    file = tmp_path / ".env"
    file.write_text("EMAIL_HOST=file\nEMAIL_HOST_USER=me\nTIME_ZONE=Europe/Vienna\nDEBUG=1\nEMAIL_PORT=\n")
    values = read_values(file, {"EMAIL_HOST": "process", "TIME_ZONE": " ", "HOME": "/root"})
    assert values == {"EMAIL_HOST": "process", "EMAIL_HOST_USER": "me", "TIME_ZONE": "Europe/Vienna", "DEBUG": "1"}


def test_a_password_in_the_file_is_taken_as_it_stands(tmp_path):
    file = tmp_path / ".env"
    file.write_text("EMAIL_HOST_PASSWORD='p$HOME${PATH}#1 ä'\nEMAIL_HOST=x\n")
    assert read_values(file, {})["EMAIL_HOST_PASSWORD"] == "p$HOME${PATH}#1 ä"


def test_a_file_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(tmp_path):
    file = tmp_path / ".env"
    file.write_bytes("EMAIL_HOST=ä".encode("latin-1"))
    with pytest.raises(BadSettings, match="UTF-8"):
        read_values(file, {})
    file.write_bytes(b"\xef\xbb\xbfEMAIL_HOST=x\r\n")
    assert read_values(file, {}) == {"EMAIL_HOST": "x"}


def test_lines_that_cannot_be_read_are_named_by_number_and_not_shown(tmp_path):
    file = tmp_path / ".env"
    file.write_text("# mine\nEMAIL_HOST=x\n\nhush hush\nEMAIL_PORT=465\n\n\nEMAIL_HOST_PASSWORD='hush\nTIME_ZONE=UTC\n")
    assert unreadable(file) == [
        f"{file}, line {line}, cannot be read; write NAME=value, and close every quote." for line in (4, 8)
    ]
    assert unreadable(EXAMPLE) == unreadable(tmp_path / "none") == []


def test_a_missing_file_holds_nothing(tmp_path):
    assert read_values(tmp_path / "none", {}) == {}


@pytest.mark.parametrize(
    ("text", "meant"),
    [("True", True), ("true", True), ("1", True), ("yes", True), ("False", False), ("0", False), ("no", False)],
)
def test_truth_values_are_read_as_django_people_write_them(text, meant):
    assert read_environment({"EMAIL_USE_TLS": text}).email_use_tls is meant


def test_all_wrong_values_are_named_at_once():
    values = {"EMAIL_PORT": "smtp", "EMAIL_USE_TLS": "maybe", "DB_BACKUP_TIMEOUT": "0", "EMAIL_HOST_PASSWORD": "hush"}
    with pytest.raises(BadSettings) as refused:
        read_environment(values)
    assert refused.value.sentences == (
        "EMAIL_PORT is 'smtp'; write a whole number.",
        "EMAIL_USE_TLS is 'maybe'; write True or False.",
        "DB_BACKUP_TIMEOUT is 0; write 1 or more.",
    )
    assert "hush" not in str(refused.value)


def test_no_secret_stands_in_the_representation():
    values = {"EMAIL_HOST_PASSWORD": "hush", "DATABASE_URL": "postgres://a:hush@b/c", "AUTUMN_SECRET_KEY": "hush"}
    assert "hush" not in repr(read_environment(values))


def test_a_name_that_is_nearly_ours_is_told():
    assert misspelt({"GMAIL_CLIENT_SECRETS": "x", "SECRET_KEY": "y", "EMAIL_HOST": "z"}) == [
        "GMAIL_CLIENT_SECRETS is not read; did you mean GMAIL_CLIENT_SECRET?"
    ]


def test_the_example_names_every_variable_and_no_other():
    named = re.findall(r"^([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(Environment.names())


def test_the_example_as_it_stands_is_accepted_and_sets_no_mail_or_database():
    values = read_values(EXAMPLE, {})
    assert values == {"TIME_ZONE": "UTC", "GATEWAY_URL": "http://localhost:8000"}
    read_environment(values)


def test_every_variable_is_documented():
    text = (ROOT / "docs" / "configuration.md").read_text()
    aliases = [
        field.validation_alias or f"ZERO_FLEET_{name.upper()}" for name, field in Installation.model_fields.items()
    ]
    assert [name for name in [*Environment.names(), *map(str, aliases)] if f"| `{name}` |" not in text] == []
