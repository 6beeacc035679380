"""Where an image is built from: what git and the engine must never be given is refused by its format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InvalidInput
from tasks.registry.source import Source, check_source, check_tag
from tasks.registry.spec import SpecChanges, ZeroSpec, apply_changes, difference


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c 'id'", "file:///etc", "/etc", "../x", "--upload-pack=id", "-x", "ssh://example.org/x", "git://example.org/x",
        "example.org:x/y", "https://", "https:///x", "https://example.org/x y", "https://example.org/x\n", "HTTP:x",
        "https://example.org/x?access_token=1", "https://example.org/x#y", "https://[::1/x", "https://example.org:x/y",
    ],
)  # fmt: skip
def test_what_is_no_web_address_of_a_repository_is_refused(url):
    with pytest.raises(InvalidInput, match="repo_url"):
        check_source(Source(url))


@pytest.mark.parametrize(
    "url", ["https://user:hunter22@example.org/x", "https://hunter22@github.com/a/b", "http://a@b"]
)
def test_a_url_with_a_password_is_refused_and_not_shown(url):
    with pytest.raises(InvalidInput, match="repo_url is a URL with a user or password in it") as caught:
        check_source(Source(url))
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://github.com/Mail-0/Zero", "http://127.0.0.1:3000/a/b.git", "https://git.example.org/~x/y"]
)
def test_an_address_of_a_repository_passes(url):
    check_source(Source(url))


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "-x",
        "--upload-pack=id",
        "a b",
        "a..b",
        "a:b",
        "+a",
        "a^",
        "a~1",
        "@{1}",
        "a\n",
        "a/",
        "/a",
        "a//b",
        "x.lock",
        "a*",
        "é",
    ],
)
def test_what_is_no_branch_is_refused(ref):
    with pytest.raises(InvalidInput, match="repo_branch"):
        check_source(Source(branch=ref))


@pytest.mark.parametrize(
    "ref", ["staging", "v1.2.3", "feature/x-1", "dependabot/npm_and_yarn/a-1.0", "0a1b2c3d" * 5, "release@2"]
)
def test_a_branch_a_tag_and_a_commit_pass(ref):
    check_source(Source(branch=ref))


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "-f", "a/..", "..", "a\nb", " a", "a\0b", "a\\b"])
@pytest.mark.parametrize("field", ["dockerfile", "context"])
def test_a_path_that_leads_out_of_the_repository_is_refused(field, path):
    with pytest.raises(InvalidInput, match=f"{field} .* is no path inside the repository"):
        check_source(Source(**{field: path}))


@given(st.text(max_size=30))
def test_no_text_that_passes_as_a_branch_can_be_an_option_or_a_refspec(text):
    try:
        check_source(Source(branch=text))
    except InvalidInput:
        return
    assert text[0] not in "-+" and not set(text) & set(": \t\n^~*?[\\") and text.isascii()


@pytest.mark.parametrize(
    "name", ["zero-production:latest", "ghcr.io/mail-0/zero:staging", "localhost:5000/zero", "a__b/c-d.e:V1"]
)
def test_a_name_that_an_image_may_have_passes(name):
    check_tag(name)


@pytest.mark.parametrize(
    "name", ["", "Zero:latest", "zero:", "zero:a:b", "a@sha256:0", "-zero", "zero latest", "zero:x\n"]
)
def test_a_name_that_no_built_image_may_have_is_refused(name):
    with pytest.raises(InvalidInput, match="no name that a built image may have"):
        check_tag(name)


def test_build_arguments_refuse_secrets_and_take_public_urls():
    passes = {"NEXT_PUBLIC_APP_URL": "https://a.example", "NEXT_PUBLIC_POSTHOG_KEY": "phc_1", "NODE_VERSION": "22"}
    assert apply_changes({}, SpecChanges(build_args=passes)).source.build_args == passes
    for refused in (
        {"API_KEY": "hunter22"},
        {"X": "ghp_hunter22"},
        {"X": "https://u:hunter22@a.example"},
        {"a b": "c"},
    ):
        with pytest.raises(InvalidInput, match="build_args") as caught:
            apply_changes({}, SpecChanges(build_args=refused))
        assert "hunter22" not in str(caught.value)


def test_a_spec_stored_before_there_were_these_fields_is_as_it_was():
    new = ("registry_credentials", "repo_url", "repo_branch", "build_args", "dockerfile", "context", "docker_host")
    old = {name: value for name, value in ZeroSpec().model_dump(mode="json").items() if name not in new}
    spec = apply_changes(old, SpecChanges())
    assert spec == ZeroSpec() and difference(old, spec) == []
    assert spec.source == Source()
    check_source(spec.source)
