"""What the settings call for, and every refusal in words; without Prefect."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from deployments.bootstrap.difference import SECRET_DIFFERS, Outcome, compare, data_of, merged
from deployments.bootstrap.environment import read_environment
from deployments.bootstrap.google_files import GoogleFiles, read_google_files
from deployments.bootstrap.plan import WITHOUT, Wanted, make_plan
from deployments.bootstrap.refusals import BadSettings
from tasks.errors import Damaged
from tasks.gmail.credentials_file import ClientCredentials

MAIL = {
    "EMAIL_HOST": "smtp.gmail.com",
    "EMAIL_HOST_USER": "me@gmail.com",
    "EMAIL_HOST_PASSWORD": "app-pass",
    "EMAIL_BACKUP_RECIPIENT": "a@example.org, b@example.org",
}


NO_FILES = GoogleFiles()


def plan(values, files=NO_FILES, given=()):
    return make_plan(read_environment(values), files, given)


def wanted(values, name, **other):
    return {block.name: block for block in plan(values, **other).wanted}.get(name)


def saved(values, name):
    """The block as it would be saved first."""
    return data_of(merged(wanted(values, name), None))


def refusals(values):
    with pytest.raises(BadSettings) as refused:
        plan(values)
    return refused.value.sentences


def test_nothing_set_makes_the_two_policies_and_says_what_will_not_work():
    made = plan({})
    assert {block.name for block in made.wanted} == {"backup-policy", "alert-policy"}
    assert len(made.without(())) == len(WITHOUT) and made.warnings == ()
    assert not any("smtp" in sentence for sentence in made.without({"smtp"}))
    assert saved({}, "backup-policy")["mail_enabled"] is False


@pytest.mark.parametrize(
    ("values", "kind", "port"),
    [
        ({}, "STARTTLS", 587),
        ({"EMAIL_PORT": "587", "EMAIL_USE_TLS": "True"}, "STARTTLS", 587),
        ({"EMAIL_USE_SSL": "True"}, "SSL", 465),
        ({"EMAIL_PORT": "465"}, "SSL", 465),
        ({"EMAIL_PORT": "465", "EMAIL_USE_TLS": "True"}, "SSL", 465),
        ({"EMAIL_USE_TLS": "False"}, "INSECURE", 25),
        ({"EMAIL_PORT": "2525", "EMAIL_USE_SSL": "False"}, "STARTTLS", 2525),
    ],
)
def test_port_and_flags_choose_the_encryption(values, kind, port):
    block = merged(wanted(MAIL | values, "smtp"), None)
    assert (block.smtp_type.name, block.smtp_port) == (kind, port)


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"EMAIL_USE_TLS": "False"}, "your password go to smtp.gmail.com unencrypted"),
        ({"EMAIL_PORT": "465", "EMAIL_USE_TLS": "True"}, "465 means SSL"),
        ({"EMAIL_HOST": "smtp-mail.outlook.com"}, "Microsoft refuses passwords"),
        ({"EMAIL_HOST": "smtp.office365.com", "EMAIL_HOST_USER": "me@hotmail.com"}, "Microsoft refuses passwords"),
        ({"DATABASE_URL": "postgres://a:b@c/d?schema=public"}, "the parameter schema is not used"),
    ],
)
def test_doubtful_settings_warn_and_go_on(values, warning):
    assert any(warning in said for said in plan(MAIL | values).warnings)


LOGIN = {key: value for key, value in MAIL.items() if key != "EMAIL_HOST"}


@pytest.mark.parametrize(
    ("values", "host", "kind", "port"),
    [
        ({"EMAIL_PROVIDER": "gmail"}, "smtp.gmail.com", "STARTTLS", 587),
        ({"EMAIL_PROVIDER": "Mail.ru"}, "smtp.mail.ru", "SSL", 465),
        ({"EMAIL_PROVIDER": "yandex"}, "smtp.yandex.ru", "SSL", 465),
        ({"EMAIL_PROVIDER": "microsoft365"}, "smtp.office365.com", "STARTTLS", 587),
        ({"EMAIL_PROVIDER": "gmail", "EMAIL_PORT": "465"}, "smtp.gmail.com", "SSL", 465),
        ({"EMAIL_PROVIDER": "yandex", "EMAIL_PORT": "587"}, "smtp.yandex.ru", "STARTTLS", 587),
        ({"EMAIL_PROVIDER": "yandex", "EMAIL_USE_TLS": "True"}, "smtp.yandex.ru", "STARTTLS", 587),
        ({"EMAIL_PROVIDER": "yandex", "EMAIL_HOST": "mx.example.org"}, "mx.example.org", "STARTTLS", 587),
    ],
)
def test_a_provider_fills_what_is_not_set(values, host, kind, port):
    block = merged(wanted(LOGIN | values, "smtp"), None)
    assert (block.smtp_server, block.smtp_type.name, block.smtp_port) == (host, kind, port)
    assert saved(LOGIN | values, "backup-policy")["mail_enabled"] is True
    warned = [said for said in plan(LOGIN | values).warnings if "EMAIL_PROVIDER yandex is not used" in said]
    assert bool(warned) == ("EMAIL_HOST" in values)


def test_mailed_files_are_encrypted_for_the_keys_that_are_set():
    public = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
    made = ed25519.Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.OpenSSH
    ssh = made.public_bytes(serialization.Encoding.OpenSSH, form).decode() + " ops@example.org"
    policy = saved({"BACKUP_AGE_RECIPIENTS": f" {public}, {ssh} ,,{public}"}, "backup-policy")
    assert policy["age_recipients"] == [public, ssh]


def test_a_server_without_login_on_this_machine_is_legal_and_silent():
    values = {
        "EMAIL_HOST": "localhost",
        "EMAIL_USE_TLS": "False",
        "EMAIL_BACKUP_RECIPIENT": "a@b.org",
        "DEFAULT_FROM_EMAIL": "x@b.org",
    }
    assert plan(values).warnings == () and saved(values, "smtp")["username"] is None


def test_the_backup_policy_follows_the_settings():
    values = MAIL | {
        "DEFAULT_FROM_EMAIL": "Backups <ops@example.org>",
        "LOCAL_BACKUP_DIR": "/app/backups",
        "LOCAL_BACKUP_FILENAME": "x.sql.gz",
        "DB_BACKUP_TIMEOUT": "900",
        "EMAIL_BACKUP_SUBJECT_PREFIX": "[Ours]",
    }
    policy = saved(values, "backup-policy")
    assert policy["recipients"] == ["a@example.org", "b@example.org"] and policy["mail_enabled"] is True
    assert (policy["directory"], policy["filename"], policy["timeout_seconds"]) == ("/app/backups", "x.sql.gz", 900)
    assert (policy["sender"], policy["subject_prefix"]) == ("Backups <ops@example.org>", "[Ours]")
    assert saved(MAIL, "backup-policy")["sender"] == "me@gmail.com"
    assert saved(MAIL | {"EMAIL_BACKUP_ENABLED": "False"}, "backup-policy")["mail_enabled"] is False


@pytest.mark.parametrize("host", ["localhost", "mail_relay", "::1", "192.0.2.7", "mx.example.org.", "почта.рф"])
def test_a_mail_server_may_be_a_name_or_an_address(host):
    assert saved(MAIL | {"EMAIL_HOST": host}, "smtp")["smtp_server"] == host


def test_database_urls_are_decoded():
    url = "postgresql+psycopg2://app%40x:p%3A%2F%40ss@db.lan:6432/app?sslmode=verify-full"
    data = saved({"DATABASE_URL": url}, "app-database")
    assert data == {
        "host": "db.lan",
        "port": 6432,
        "database": "app",
        "username": "app@x",
        "password": "p:/@ss",
        "sslmode": "verify-full",
    }


@pytest.mark.parametrize(("host", "inside"), [("localhost", "host.docker.internal"), ("db.lan", "db.lan")])
def test_the_server_for_clients_is_seen_by_containers_under_a_name_that_they_can_reach(host, inside):
    data = saved({"ZERO_POSTGRES_URL": f"postgres://prov:x@{host}"}, "postgres-server")
    assert (data["container_host"], data["maintenance_database"], data["port"]) == (inside, "postgres", 5432)


def test_the_stacks_own_block_stands_only_where_the_settings_say_nothing():
    own = Wanted(
        "postgres-server", wanted({"ZERO_POSTGRES_URL": "postgres://a:b@c"}, "postgres-server").kind, {"port": 1}
    )
    assert wanted({}, "postgres-server", given=[own]) is own
    assert wanted({"ZERO_POSTGRES_URL": "postgres://a:b@c"}, "postgres-server", given=[own]) is not own


def test_google_twilio_and_autumn_make_their_blocks():
    values = {
        "GOOGLE_CLIENT_ID": "one",
        "GOOGLE_CLIENT_SECRET": "s1",
        "GMAIL_CLIENT_ID": "one",
        "GMAIL_CLIENT_SECRET": "s2",
        "AUTUMN_SECRET_KEY": "123456",
        "TWILIO_ACCOUNT_SID": "AC1",
        "TWILIO_AUTH_TOKEN": "t",
        "TWILIO_PHONE_NUMBER": "+43 123 456 789",
    }
    assert saved(values, "google-zero")["client_secret"] == "s1"
    assert saved(values, "google-gmail")["client_secret"] == "s2"
    assert saved(values, "autumn-key") == {"value": "123456"}
    assert saved(values, "twilio")["phone_number"] == "+43123456789"
    assert "one OAuth client" in plan(values).warnings[0]


def test_a_webhook_is_made_and_named_in_the_policy_and_a_metrics_token_is_taken_as_it_stands():
    values = {"BACKUP_WEBHOOK_URL": "https://h.example.org/?t=hush", "BACKUP_WEBHOOK_KEY": "whsec_" + "c2Vj" * 8}
    assert saved(values, "backup-webhook") == {
        "url": "https://h.example.org/?t=hush",
        "signing_key": "whsec_" + "c2Vj" * 8,
    }
    assert saved(values, "backup-policy")["webhook"] == "backup-webhook"
    assert wanted({}, "backup-webhook") is None and "webhook" not in wanted({}, "backup-policy").values
    assert saved({"METRICS_TOKEN": "0012345678901234"}, "metrics-token") == {"value": "0012345678901234"}


def test_a_credentials_file_stands_in_for_id_and_secret_and_its_redirects_are_checked():
    client = ClientCredentials("from-file", "s", "https://a", "https://t", ("http://localhost:8000/gmail/callback/",))
    made = plan({}, GoogleFiles(client))
    assert {block.name: block for block in made.wanted}["google-gmail"].values["client_id"] == "from-file"
    assert made.warnings == ()
    moved = plan({"GATEWAY_URL": "https://fleet.example.org"}, GoogleFiles(client))
    assert "https://fleet.example.org/gmail/callback/" in moved.warnings[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (MAIL | {"EMAIL_USE_TLS": "1", "EMAIL_USE_SSL": "1"}, "EMAIL_USE_TLS and EMAIL_USE_SSL are both True"),
        (MAIL | {"EMAIL_HOST_PASSWORD": ""}, "EMAIL_HOST_USER is set, but EMAIL_HOST_PASSWORD is empty"),
        (
            MAIL | {"EMAIL_HOST_USER": "", "DEFAULT_FROM_EMAIL": "a@b.org"},
            "EMAIL_HOST_PASSWORD is set, but EMAIL_HOST_USER is empty",
        ),
        (MAIL | {"EMAIL_BACKUP_RECIPIENT": ""}, "EMAIL_BACKUP_RECIPIENT is empty"),
        ({"EMAIL_BACKUP_ENABLED": "True"}, "EMAIL_BACKUP_RECIPIENT is empty"),
        (MAIL | {"EMAIL_BACKUP_RECIPIENT": "a@b.org;c@d.org"}, "EMAIL_BACKUP_RECIPIENT: 'a@b.org;c@d.org'"),
        (MAIL | {"EMAIL_HOST_USER": "me"}, "DEFAULT_FROM_EMAIL is empty"),
        (MAIL | {"DEFAULT_FROM_EMAIL": "Backups <ops"}, "DEFAULT_FROM_EMAIL 'Backups <ops'"),
        (MAIL | {"DEFAULT_FROM_EMAIL": "X <a@b.org>\nBcc: c@d.org"}, "DEFAULT_FROM_EMAIL"),
        ({"LOCAL_BACKUP_FILENAME": "../x"}, "LOCAL_BACKUP_FILENAME '../x' is no file name"),
        ({"LOCAL_BACKUP_DIR": "rel/dir"}, "LOCAL_BACKUP_DIR 'rel/dir' is not an absolute path"),
        (LOGIN | {"EMAIL_PROVIDER": "gmial"}, "EMAIL_PROVIDER 'gmial' is not known; write gmail, yandex"),
        (
            LOGIN | {"EMAIL_PROVIDER": "outlook"},
            "EMAIL_PROVIDER 'outlook' cannot send: Microsoft refuses passwords of personal",
        ),
        ({"BACKUP_AGE_RECIPIENTS": "AGE-SECRET-KEY-1HUSHhush"}, "holds a secret key where a public one belongs"),
        (
            {"BACKUP_AGE_RECIPIENTS": "hush"},
            "BACKUP_AGE_RECIPIENTS (Encrypt for in the block backup-policy): number 1 is",
        ),
        (MAIL | {"EMAIL_HOST": "smtp example"}, "EMAIL_HOST 'smtp example' is no host name"),
        (MAIL | {"EMAIL_HOST": "smtp://mx.example.org:25"}, "its port goes into EMAIL_PORT"),
        ({"DATABASE_URL": "sqlite:///db.sqlite3"}, "DATABASE_URL names a SQLite file"),
        ({"DATABASE_URL": "mysql://u:hush@h/d"}, "DATABASE_URL is a mysql URL"),
        ({"DATABASE_URL": "hush"}, "DATABASE_URL is no URL"),
        ({"DATABASE_URL": "postgres://u:hu@h:5432x/d"}, "DATABASE_URL cannot be read"),
        ({"DATABASE_URL": "postgres://u:hush@h"}, "DATABASE_URL names no database"),
        ({"DATABASE_URL": "postgres:///d"}, "DATABASE_URL names no host and no user"),
        ({"DATABASE_URL": "postgres://u:hush@h/d?sslmode=allow"}, "DATABASE_URL has sslmode='allow'"),
        ({"DATABASE_URL": "postgres://u:hu#sh@h/d"}, "DATABASE_URL"),
        ({"ZERO_POSTGRES_URL": "sqlite://"}, "ZERO_POSTGRES_URL names a SQLite file"),
        ({"TIME_ZONE": "Vienna"}, "TIME_ZONE 'Vienna'"),
        ({"GATEWAY_URL": "fleet.example.org"}, "GATEWAY_URL"),
        ({"GOOGLE_CLIENT_ID": "x"}, "GOOGLE_CLIENT_ID is set, but GOOGLE_CLIENT_SECRET is empty"),
        ({"GMAIL_CLIENT_SECRET": "hush"}, "GMAIL_CLIENT_SECRET is set, but GMAIL_CLIENT_ID is empty"),
        ({"TWILIO_ACCOUNT_SID": "AC1"}, "TWILIO_AUTH_TOKEN and TWILIO_PHONE_NUMBER are empty"),
        (
            {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "hush", "TWILIO_PHONE_NUMBER": "0664"},
            "TWILIO_PHONE_NUMBER is no number",
        ),
        ({"BACKUP_WEBHOOK_URL": "https://h/hush"}, "BACKUP_WEBHOOK_URL is set, but BACKUP_WEBHOOK_KEY is empty"),
        (
            {"BACKUP_WEBHOOK_URL": "http://h.example.org/hush", "BACKUP_WEBHOOK_KEY": "k" * 24},
            "BACKUP_WEBHOOK_URL is http, which anybody on the way can read",
        ),
        (
            {"BACKUP_WEBHOOK_URL": "https://h/hush", "BACKUP_WEBHOOK_KEY": "hush"},
            "BACKUP_WEBHOOK_KEY is neither whsec_ and base64 nor a text of 24 to 200",
        ),
        ({"METRICS_TOKEN": "hush"}, "METRICS_TOKEN is no token of 16 or more letters"),
        ({"METRICS_TOKEN": "hush hush hush hush"}, "METRICS_TOKEN is no token of 16 or more letters"),
    ],
)
def test_it_refuses_by_name_and_without_the_secret(values, said):
    (sentence,) = refusals(values)
    assert said in sentence and "hush" not in sentence and "app-pass" not in sentence and sentence.endswith(".")


def test_both_faults_of_a_mail_server_come_at_once():
    assert len(refusals(MAIL | {"EMAIL_USE_TLS": "1", "EMAIL_USE_SSL": "1", "EMAIL_HOST_PASSWORD": ""})) == 2


def test_several_refusals_come_at_once():
    values = {"GOOGLE_CLIENT_ID": "x", "TWILIO_ACCOUNT_SID": "AC1", "DATABASE_URL": "sqlite://", "TIME_ZONE": "Mars"}
    assert len(refusals(values | {"GATEWAY_URL": "x"})) == 5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"GMAIL_CREDENTIALS_FILE": "/nowhere.json"}, "GMAIL_CREDENTIALS_FILE /nowhere.json does not exist"),
        ({"GMAIL_TOKEN_FILE": "/nowhere.json"}, "GMAIL_TOKEN_USER is empty"),
        (
            {"GMAIL_TOKEN_FILE": "/nowhere.json", "GMAIL_TOKEN_USER": "42"},
            "GMAIL_TOKEN_FILE /nowhere.json does not exist",
        ),
        ({"GMAIL_TOKEN_FILE": "/x", "GMAIL_TOKEN_USER": "x" * 201}, "GMAIL_TOKEN_USER: user"),
    ],
)
def test_files_that_are_not_there_are_refused_by_name(values, said):
    with pytest.raises(BadSettings, match=said):
        read_google_files(read_environment(values))


def test_a_credentials_file_of_another_client_than_the_variables_is_refused(tmp_path: Path):
    file = tmp_path / "credentials.json"
    web = {"client_id": "two", "client_secret": "hush", "auth_uri": "https://a", "token_uri": "https://t"}
    file.write_text(json.dumps({"web": web}))
    values = {"GMAIL_CREDENTIALS_FILE": str(file), "GMAIL_CLIENT_ID": "one", "GMAIL_CLIENT_SECRET": "s"}
    with pytest.raises(BadSettings, match="different OAuth clients"):
        plan(values, read_google_files(read_environment(values)))


def test_only_what_the_settings_speak_of_is_compared_and_secrets_are_not_shown():
    block = wanted(MAIL, "smtp")
    there = data_of(merged(block, None))
    assert compare(block, there | {"verify": False}, overwrite=False).outcome is Outcome.UNCHANGED
    found = compare(block, there | {"password": "hush", "smtp_type": "SSL"}, overwrite=False)
    assert found.outcome is Outcome.KEPT
    assert [str(field) for field in found.fields] == [
        "smtp_type: SSL in Prefect, STARTTLS in the settings",
        f"password: {SECRET_DIFFERS}",
    ]
    assert compare(block, there | {"smtp_port": 1}, overwrite=True).outcome is Outcome.OVERWRITTEN
    assert data_of(merged(block, there | {"smtp_port": 1, "verify": False}))["verify"] is False


def test_a_block_that_is_still_as_bootstrap_left_it_loses_what_the_settings_say_no_more():
    block = wanted(MAIL, "backup-policy")
    before = MAIL | {"LOCAL_BACKUP_FILENAME": "x.gz"}
    there, ours = saved(before, "backup-policy"), tuple(wanted(before, "backup-policy").values)
    found = compare(block, there, overwrite=False, ours=ours)
    assert found.outcome is Outcome.UPDATED and [field.field for field in found.fields] == ["filename"]
    assert data_of(merged(block, there, ours)) == saved(MAIL, "backup-policy")
    # A field that the settings never spoke of is somebody's own.
    assert data_of(merged(block, there | {"stall_seconds": 7}, ours))["stall_seconds"] == 7


def test_a_block_that_does_not_fit_its_type_is_named_without_its_values():
    with pytest.raises(Damaged, match=r"app-database does not fit its type \(fields: port\)") as failed:
        compare(
            wanted({"DATABASE_URL": "postgres://a:b@c/d"}, "app-database"),
            {"host": "h", "database": "d", "username": "u", "port": "hush"},
            overwrite=False,
        )
    assert failed.value.__cause__ is None and failed.value.__context__ is None
