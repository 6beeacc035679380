"""The container's environment and its hash: pure."""

from dataclasses import replace
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.clients.containers import LAYOUT
from tasks.clients.environment import (
    OURS,
    GoogleClient,
    TwilioAccount,
    build,
    choose_google,
    container_hash,
    database_url,
    redirect_uri,
)
from tasks.clients.secrets import Secrets, fill, redact
from tasks.errors import InvalidInput, NotConfigured
from tasks.registry.names import SLUG_LENGTH, ClientNames, require_slug
from tasks.registry.spec import SpecChanges, ZeroSpec, check

NAMES = ClientNames("acme")
GOOGLE = GoogleClient("id", "google-secret")
OWN = fill(Secrets())


def environment(
    spec: ZeroSpec | None = None, own: Secrets = OWN, twilio: TwilioAccount | None = None
) -> dict[str, str]:
    return build(spec or ZeroSpec(), NAMES, 20000, own, GOOGLE, twilio, "host.docker.internal", 5432)


def hashed(spec: ZeroSpec | None = None, own: Secrets = OWN) -> str:
    spec = spec or ZeroSpec()
    return container_hash(spec, environment(spec, own), 20000, "net", own.better_auth_secret, LAYOUT)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
def test_any_password_survives_the_database_url(password):
    url = database_url(NAMES, password, "db", 5432)
    parts = urlsplit(url)
    assert unquote(parts.password or "") == password
    assert (parts.hostname, parts.port, parts.path) == ("db", 5432, "/zero_client_acme")


@given(st.text(max_size=60))
def test_a_slug_that_passes_gives_names_that_docker_and_postgresql_take(text):
    try:
        slug = require_slug(text)
    except InvalidInput:
        return
    name = ClientNames(slug).container
    assert name.isascii() and len(name.encode()) <= 63 and len(slug) <= SLUG_LENGTH
    assert all(letter.isalnum() or letter == "_" for letter in name)


@given(st.from_regex(r"[a-z][a-z0-9]{0,9}(-[a-z0-9]{1,9}){0,3}", fullmatch=True))
def test_every_slug_after_the_rule_passes_and_no_two_share_a_name(slug):
    if len(slug) <= SLUG_LENGTH:
        assert ClientNames(require_slug(slug)).container.removeprefix("zero_client_").replace("_", "-") == slug


def test_it_holds_everything_that_zero_needs():
    made = environment()
    for name in (
        "DATABASE_URL",
        "GOOGLE_CLIENT_ID",
        "GOOGLE_CLIENT_SECRET",
        "BETTER_AUTH_SECRET",
        "BETTER_AUTH_URL",
        "PORT",
    ):
        assert made[name]
    assert made["BETTER_AUTH_URL"] == "http://localhost:20000"
    assert "TWILIO_AUTH_TOKEN" not in made and "REDIS_URL" not in made and "DROP_AGENT_TABLES" not in made


def test_a_domain_gives_the_public_url_and_both_origins():
    made = environment(ZeroSpec(subdomain="mail", domain="acme.example"))
    assert made["BETTER_AUTH_URL"] == "https://mail.acme.example"
    assert made["BETTER_AUTH_TRUSTED_ORIGINS"] == "https://mail.acme.example,http://localhost:20000"
    assert redirect_uri(made["BETTER_AUTH_URL"]) == "https://mail.acme.example/api/auth/callback/google"


def test_twilio_and_redis_come_only_when_asked_for():
    own = fill(Secrets(redis_token="redis-token"))
    made = environment(ZeroSpec(redis_url="https://r.example"), own, TwilioAccount("AC1", "t", "+1"))
    assert (made["REDIS_TOKEN"], made["TWILIO_PHONE_NUMBER"]) == ("redis-token", "+1")


@pytest.mark.parametrize("name", sorted(OURS - {name for name in OURS if name.endswith(("SECRET", "TOKEN", "KEY"))}))
def test_extra_env_that_clashes_is_refused_by_name(name):
    with pytest.raises(InvalidInput, match=name):
        environment(ZeroSpec(extra_env={name: "x"}))


def test_secret_env_that_clashes_is_refused_without_its_value():
    with pytest.raises(InvalidInput) as caught:
        environment(own=fill(Secrets(secret_env={"DATABASE_URL": "hunter22"})))
    assert "hunter22" not in str(caught.value)


def test_everything_we_set_is_known_as_ours():
    spec = ZeroSpec(redis_url="https://r.example", extra_env={"LOG_LEVEL": "debug"})
    made = environment(
        spec, fill(Secrets(redis_token="t", secret_env={"RESEND_API_KEY": "x"})), TwilioAccount("a", "b", "c")
    )
    assert set(made) - {"LOG_LEVEL", "RESEND_API_KEY"} <= OURS


def test_the_hash_changes_with_a_secret_and_with_a_limit_and_not_by_itself():
    assert hashed() == hashed()
    assert hashed(ZeroSpec(memory=2048)) != hashed()
    other = Secrets(**{**OWN.__dict__, "api_token": "another-token"})
    assert hashed(own=other) != hashed()


def test_the_hash_ignores_what_no_container_is_made_from():
    assert hashed(ZeroSpec(ready_within=10, pull="never")) == hashed()


def test_a_client_with_half_a_google_client_is_refused():
    with pytest.raises(NotConfigured, match="only one"):
        choose_google(Secrets(google_client_id="x"), GOOGLE, "google-zero", NAMES)


def test_a_missing_google_client_names_its_block():
    with pytest.raises(NotConfigured, match="google-other"):
        choose_google(Secrets(), None, "google-other", NAMES)


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=6, max_size=40))
def test_no_redacted_text_holds_the_secret(secret):
    import base64
    from urllib.parse import quote

    forms = [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()]
    shown = redact(" | ".join(["zzz", *forms, "zzz"]), [secret])
    if "*" not in secret and secret not in " | zzz | ":
        assert not any(form in shown for form in forms)


def test_filled_secrets_are_honoured_and_only_empty_ones_made():
    given_ = Secrets(database_password="mine", autumn_key="")
    made = fill(given_, "fleet-key")
    assert (made.database_password, made.autumn_key) == ("mine", "fleet-key")
    assert fill(made) == made
    assert "mine" not in repr(made)


def _without_null(field: dict) -> dict:
    branches = [branch for branch in field.get("anyOf", []) if branch.get("type") != "null"]
    found = branches[0] if branches else field
    return {key: value for key, value in found.items() if key not in ("default", "title")}


def test_changes_and_spec_have_the_same_fields_types_bounds_and_descriptions():
    stored, changes = ZeroSpec.model_json_schema()["properties"], SpecChanges.model_json_schema()["properties"]
    assert set(changes) - {"reset", "allow_new_port"} == set(stored)
    for name, field in stored.items():
        assert _without_null(field) == _without_null(changes[name]), name
        assert changes[name]["default"] is None, name
        assert changes[name]["description"], name


def test_a_value_that_no_environment_can_hold_is_refused_before_a_container_is_made_of_it():
    with pytest.raises(InvalidInput, match="extra_env has MOTTO, whose value has a NUL"):
        check(ZeroSpec(extra_env={"MOTTO": "all\0well"}))
    with pytest.raises(InvalidInput, match="build_args has MOTTO, whose value has a NUL"):
        check(ZeroSpec(build_args={"MOTTO": "all\0well"}))
    with pytest.raises(InvalidInput, match="secret_env of the block zero-acme has MOTTO, whose value") as raised:
        environment(own=replace(OWN, secret_env={"MOTTO": "hunter22\0"}))
    assert "hunter22" not in str(raised.value)
