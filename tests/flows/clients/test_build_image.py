"""build-zero-image, and images that are built because a client needs them: real git, engine, PostgreSQL and Prefect server."""

import asyncio
import secrets

import pytest

from flows.clients.build_image import build_zero_image
from tasks.clients import provisioning
from tasks.errors import Conflict
from tasks.registry import queries
from tasks.registry.names import LABEL_COMMIT, LABEL_URL
from tests.flows.clients.test_provision import nothing_made, page_of, run, wanted


async def build(**parameters):
    """The flow's final state."""
    return await build_zero_image(return_state=True, **parameters)


async def test_it_builds_says_what_and_keeps_the_log(house, docker_client, repository, url, tag):
    from blocks.installation import installation

    commit = repository.commit({"docker/app/Dockerfile": "FROM scratch\nCOPY hello /\n", "hello": "hi"})
    state = await build(repo_url=url, tag=tag)
    assert state.is_completed(), state.message
    assert state.message.startswith(
        f"{tag} ({docker_client.images.get(tag).id[7:19]}) was built from {url} at staging, "
    )
    assert commit[:12] in state.message
    assert list(installation().builds.glob(f"{tag.replace(':', '-')}-*.log"))
    repository.commit({"docker/app/Dockerfile": "FROM scratch\nCOPY missing /\n"})
    failed = await build(repo_url=url, tag=tag)
    assert failed.is_failed() and "the whole log is" in failed.message and "missing" in failed.message


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"repo_url": "ext::sh -c id"}, "is no http(s) address of a repository"),
        ({"repo_url": "https://u:hunter22@example.org/x"}, "a URL with a user or password in it"),
        ({"branch": "--upload-pack=x"}, "branch '--upload-pack=x' is no branch, tag or commit"),
        ({"tag": "Zero:latest"}, "write it in small letters"),
        ({"build_args": {"NPM_TOKEN": "hunter22"}}, "build_args has NPM_TOKEN, which looks like a secret"),
        ({"dockerfile": "../Dockerfile"}, "is no path inside the repository"),
    ],
)
async def test_what_must_not_reach_git_or_the_engine_is_refused_first(house, parameters, words):
    state = await build(**parameters)
    assert state.is_failed() and words in state.message and "hunter22" not in state.message


async def test_an_image_found_nowhere_is_built_once_for_all_who_need_it_with_the_first_ones_url(
    house, zero_image, docker_client, repository, url, tag, slugs
):
    commit = repository.commit({"Dockerfile": f"FROM {zero_image}\nARG NEXT_PUBLIC_APP_URL=none\n"})
    first, second = slugs(), slugs()
    states = await asyncio.gather(*(run(slug, wanted(tag, repo_url=url)) for slug in (first, second)))
    assert all(state.is_completed() for state in states), [state.message for state in states]
    image = docker_client.images.get(tag)
    assert image.labels[LABEL_COMMIT] == commit
    urls = {}
    for slug in (first, second):
        row = queries.get_instance(house, slug)
        assert row.image_id == image.id
        urls[slug] = f"http://localhost:{row.host_port}"
    baked = image.labels[LABEL_URL]
    assert baked in urls.values()
    for slug, state in zip((first, second), states, strict=True):
        warned = f"was built for {baked}, so browsers are sent there"
        assert (warned in state.message) == (warned in await page_of(slug)) == (urls[slug] != baked)
    assert len(set(urls.values())) == 2


async def test_a_build_that_fails_leaves_nothing_of_the_client(
    house, docker_client, postgres_server, repository, url, tag, slug
):
    repository.commit({"README.md": "no recipe"})
    state = await run(slug, wanted(tag, repo_url=url))
    assert state.is_failed()
    assert f"the image {tag} is not on the Docker host" in state.message and "has no Dockerfile" in state.message
    assert nothing_made(house, docker_client, postgres_server, slug)
    never = await run(slug, wanted(tag, repo_url=url, pull="never"))
    assert never.is_failed() and "Dockerfile" not in never.message


async def test_a_login_is_sent_to_its_own_registry_only_and_a_missing_one_is_named(house, docker_client, slug):
    from prefect_docker import DockerRegistryCredentials
    from pydantic import SecretStr

    name = f"registry-{secrets.token_hex(3)}"
    image = "registry.invalid/zero:1"
    missing = await run(slug, wanted(image, registry_credentials=name, repo_url=""))
    assert missing.is_failed() and f"the block {name} does not exist" in missing.message
    block = DockerRegistryCredentials(username="u", password=SecretStr("hunter22"), registry_url="ghcr.io")
    await block.asave(name)
    other = await run(slug, wanted(image, registry_credentials=name, repo_url=""))
    assert other.is_failed()
    assert f"the block {name} is for the registry ghcr.io, and {image} comes from registry.invalid" in other.message
    assert "hunter22" not in other.message


async def test_a_refusal_after_the_build_leaves_nothing_of_the_client_either(
    house, zero_image, docker_client, postgres_server, repository, url, tag, slug, monkeypatch
):
    def refused(*_):
        raise Conflict("something is in the way", "move it")

    repository.commit({"Dockerfile": f"FROM {zero_image}\n"})
    monkeypatch.setattr(provisioning, "decide", refused)
    state = await run(slug, wanted(tag, repo_url=url))
    assert state.is_failed() and "something is in the way" in state.message
    assert docker_client.images.get(tag), "it was not built, so nothing was tried here"
    assert nothing_made(house, docker_client, postgres_server, slug)
