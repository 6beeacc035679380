"""Images built from a git repository: real git over HTTP, the real engine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.clients import builds, checkout, recipe
from tasks.errors import FleetError, InvalidInput, NotFound, Refused, Unreachable
from tasks.registry.names import LABEL_COMMIT, LABEL_REPO, LABEL_URL
from tasks.registry.source import Source
from tests.conftest import ROOT
from tests.standins.git_server import served

PLAIN = "FROM scratch\nCOPY hello /hello\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "builds"


def told(_: str) -> None:
    """Nobody waits."""


def test_an_image_is_built_from_a_branch_labelled_and_logged(docker_client, repository, url, tag, folder):
    commit = repository.commit({"docker/app/Dockerfile": PLAIN, "hello": "hi"})
    said: list[str] = []
    built = builds.build(docker_client, Source(url), tag, folder, said.append)
    found = docker_client.images.get(tag)
    assert found.id == built.image_id and built.commit == commit
    assert found.labels == {LABEL_REPO: url, LABEL_COMMIT: commit}
    assert str(built).startswith(f"{tag} ({found.id[7:19]}) was built from {url} at staging, commit {commit[:12]}, in ")
    log = built.log.read_text()
    assert "docker/app/Dockerfile" in log and "Successfully built" in log
    assert built.log.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == [built.log.name]
    assert any("getting" in line for line in said) and any(str(built.log) in line for line in said)


@pytest.mark.parametrize("smart", [True, False], ids=["as GitHub serves it", "as plain files"])
def test_a_branch_a_tag_and_a_commit_are_found_and_nothing_else(repository, tmp_path, smart):
    first = repository.commit({"hello": "1"})
    repository._git("push", "-q", str(repository.bare), "HEAD:refs/tags/v1")
    second = repository.commit({"hello": "2"}, "staging")
    repository._git("-C", str(repository.bare), "update-server-info")
    cases = {"staging": second, "v1": first, first: first, first[:9]: first}
    with served(repository, smart) as url:
        for number, (ref, commit) in enumerate(cases.items()):
            assert checkout.check_out(url, ref, tmp_path / str(number)) == commit
            assert not (tmp_path / str(number) / ".git").exists()
        with pytest.raises(NotFound, match="has no branch or tag main"):
            checkout.check_out(url, "main", tmp_path / "other")
        with pytest.raises(NotFound, match="has no branch, tag or commit deadbeef"):
            checkout.check_out(url, "deadbeef", tmp_path / "none")


def test_what_git_cannot_get_is_said_in_words(repository, url, tmp_path):
    with pytest.raises(NotFound, match="there is no git repository at"):
        checkout.check_out(url.replace("zero.git", "nowhere"), "staging", tmp_path / "a")
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:1/x does not answer \("):
        checkout.check_out("http://127.0.0.1:1/x", "staging", tmp_path / "b")
    repository.commit({"a": "b"})
    with pytest.raises(FleetError):  # and no file of this machine is read, even past the check of formats
        checkout.check_out(str(repository.bare), "staging", tmp_path / "c")
    with pytest.raises(FleetError):
        checkout.check_out("ext::sh -c 'touch /tmp/never'", "staging", tmp_path / "d")


def test_a_server_that_stays_silent_is_not_waited_for_longer_than_allowed(tmp_path):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(Unreachable, match="took too long"):
            checkout.check_out(f"http://127.0.0.1:{silent.getsockname()[1]}/x", "staging", tmp_path / "a", seconds=1)
    assert time.monotonic() - began < 8


def test_a_failing_step_is_one_sentence_with_the_last_lines_and_the_log(
    docker_client, repository, url, tag, folder, zero_image
):
    repository.commit({"Dockerfile": f'FROM {zero_image}\nRUN ["/bin/sh", "-c", "echo almost there; exit 7"]\n'})
    with pytest.raises(Refused, match="returned a non-zero code: 7") as caught:
        builds.build(docker_client, Source(url), tag, folder, told)
    (log,) = folder.iterdir()
    assert "almost there" in str(caught.value) and str(log) in str(caught.value) and "\n" not in str(caught.value)
    assert "almost there" in log.read_text()
    for dockerfile, words in {
        "FROM scratch\nNONSENSE\n": "unknown instruction: NONSENSE",
        "FROM registry.invalid/none:1\n": "reach the registry of its base image",
        f'FROM {zero_image}\nRUN --mount=type=cache,target=/x ["/bin/sh", "-c", "true"]\n': "DOCKER_BUILDKIT=1 docker build",
    }.items():
        repository.commit({"Dockerfile": dockerfile})
        with pytest.raises(Refused, match=f"building {tag} failed") as caught:
            builds.build(docker_client, Source(url), tag, folder, told)
        assert words in str(caught.value)
    assert all(path.suffix == ".log" for path in folder.iterdir())


def test_a_dockerfile_that_is_nowhere_is_said_with_where_it_was_looked_for(docker_client, repository, url, tag, folder):
    repository.commit({"README.md": "x", "apps/readme": "x"})
    with pytest.raises(NotFound, match="looked for Dockerfile and docker/app/Dockerfile"):
        builds.build(docker_client, Source(url), tag, folder, told)
    with pytest.raises(
        NotFound, match=r"looked for apps/Dockerfile, Dockerfile|looked for apps/Dockerfile and Dockerfile"
    ):
        builds.build(docker_client, Source(url, context="apps"), tag, folder, told)
    with pytest.raises(NotFound, match=r"looked for my.Dockerfile\); correct dockerfile"):
        builds.build(docker_client, Source(url, dockerfile="my.Dockerfile"), tag, folder, told)
    with pytest.raises(NotFound, match="has no folder nowhere"):
        builds.build(docker_client, Source(url, context="nowhere"), tag, folder, told)
    assert not list(folder.iterdir())


def test_arguments_context_and_ignored_files_reach_the_build_as_given(
    docker_client, repository, url, tag, folder, zero_image
):
    text = f'FROM {zero_image}\nARG WHO=nobody\nCOPY . /code\nRUN ["/bin/sh", "-c", "cat /code/*; echo for $WHO"]\n'
    files = {
        "app/one": "first",
        "app/two.log": "second",
        "app/.dockerignore": "*.log\n",
        "build/Dockerfile": text,
        "root": "third",
    }
    repository.commit(files)
    source = Source(url, build_args={"WHO": "acme"}, dockerfile="build/Dockerfile", context="app")
    log = builds.build(docker_client, source, tag, folder, told).log.read_text()
    assert "first" in log and "for acme" in log
    assert "second" not in log and "third" not in log


def test_a_public_url_is_baked_in_only_where_the_dockerfile_takes_it(docker_client, repository, url, tag, folder):
    repository.commit({"Dockerfile": PLAIN, "hello": "hi"})
    assert builds.build(docker_client, Source(url), tag, folder, told, url="https://mail.acme.example").url == ""
    repository.commit({"Dockerfile": "FROM scratch\nARG NEXT_PUBLIC_APP_URL\nCOPY hello /hello\n", "hello": "hi"})
    built = builds.build(docker_client, Source(url), tag, folder, told, url="https://mail.acme.example")
    assert built.url == docker_client.images.get(tag).labels[LABEL_URL] == "https://mail.acme.example"
    given = Source(url, build_args={"NEXT_PUBLIC_APP_URL": "https://all.example"})
    assert (
        builds.build(docker_client, given, tag, folder, told, url="https://mail.acme.example").url
        == "https://all.example"
    )


@pytest.mark.parametrize("link", ["Dockerfile", "apps", ".dockerignore"])
def test_no_link_of_a_repository_leads_out_of_it(repository, url, tmp_path, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Dockerfile").write_text("FROM scratch\n")
    target = outside if link == "apps" else outside / "Dockerfile"
    repository.commit({"hello": "x", "other/Dockerfile": "FROM scratch\n"}, links={link: str(target)})
    checkout.check_out(url, "staging", tmp_path / "code")
    if link == ".dockerignore":
        assert recipe.find(tmp_path / "code", Source(url, dockerfile="other/Dockerfile"))._left_out() == []
        return
    with pytest.raises(InvalidInput, match="leads out of the repository"):
        recipe.find(tmp_path / "code", Source(url, context="apps" if link == "apps" else ""))


def test_the_newest_logs_are_kept(folder):
    folder.mkdir()
    for number in range(builds.KEPT_LOGS + 3):
        old = builds._log_file(folder, "ghcr.io/a/b:c")
        os.utime(old, (number, number))
    assert len(list(folder.glob("ghcr.io-a-b-c-*.log"))) == builds.KEPT_LOGS


SLEEPS = 'FROM {}\nRUN ["/bin/sh", "-c", "echo begun; sleep 30"]\n'


def test_a_build_that_stays_silent_is_ended_and_one_that_speaks_is_told(
    docker_client, repository, url, tag, folder, zero_image, monkeypatch
):
    repository.commit({"Dockerfile": SLEEPS.format(zero_image)})
    monkeypatch.setattr(builds, "SILENCE_SECONDS", 2)
    monkeypatch.setattr(builds, "TELL_SECONDS", 0.0)
    lines: list[str] = []
    began = time.monotonic()
    with pytest.raises(Unreachable, match=rf"building {tag} said nothing for 2 s, and was ended; .* {folder}"):
        builds.build(docker_client, Source(url), tag, folder, lines.append)
    assert time.monotonic() - began < 15
    assert any(line.startswith(f"building {tag}: begun (") for line in lines)


def test_a_build_that_is_killed_ends_with_its_process_and_its_folder_goes_with_the_next(
    docker_client, repository, url, tag, folder, zero_image
):
    repository.commit({"Dockerfile": SLEEPS.format(zero_image)})
    code = (
        "import sys, docker; from pathlib import Path; from tasks.clients import builds; from tasks.registry.source import Source\n"
        "builds.build(docker.from_env(), Source(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), lambda line: print(line, flush=True))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, url, tag, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        wait_for(lambda: running(docker_client))
    finally:
        child.kill()
        child.communicate()
    (left,) = folder.glob("work-*")
    wait_for(lambda: not running(docker_client), 15)
    os.utime(left, (1, 1))
    repository.commit({"Dockerfile": PLAIN, "hello": "hi"})
    assert builds.build(docker_client, Source(url), tag, folder, told).tag == tag
    assert not list(folder.glob("work-*"))


def running(docker_client) -> list[str]:
    """Containers of builds that sleep."""
    return [row["Id"] for row in docker_client.api.containers() if "echo begun; sleep 30" in row["Command"]]


def wait_for(seen, seconds: float = 20) -> None:
    """Until ``seen`` says so."""
    until = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_folder_in_use_is_left_alone(folder):
    with builds._workspace(folder) as used:
        os.utime(used, (1, 1))
        with builds._workspace(folder):
            pass
        assert used.exists()
    assert not used.exists()
