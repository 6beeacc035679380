"""The README tells what there is: every deployment, command and variable in it exists, and every link leads somewhere."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
OLD_STEPS = {"A": 11, "B": 8, "C": 7}
"""Lines of the three procedures of the old way."""
FOREIGN = {"PREFECT_HOME", "PATH", "PWD"}
"""Variables of Prefect and the shell that commands of the README set."""
NOT_VARIABLES = re.compile(
    r"ON_ERROR_STOP|WRONG_VERSION_NUMBER|MY_TOKEN|OPENAI_API_KEY|ZERO_API_TOKEN|DROP_AGENT_TABLES|NEXT_PUBLIC_.*"
)
"""Words in capitals that are psql's, OpenSSL's, examples, or set inside a client's container."""


def section(title: str) -> str:
    """The README's text from the heading ``title`` to the next one of its level."""
    level = title.partition(" ")[0]
    return re.split(rf"^{level} ", README.split(f"\n{title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def deployed() -> list[str]:
    """The deployments' names in prefect.yaml, by their entrypoints' functions."""
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return [one["entrypoint"].rpartition(".")[2].replace("_", "-") for one in declared]


def test_the_table_has_every_deployment_and_no_other() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", section("## The deployments"), re.MULTILINE) == deployed()


def test_every_make_target_in_the_documents_exists_and_every_target_is_told() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assignments = r"(?:[A-Z_]+=\S+ )*"
    told = re.findall(rf"(?:`|^    |\$\(){assignments}make (?:-s )?{assignments}([a-z]+)", README, re.MULTILINE)
    assert set(told) == targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_is_in_the_example_or_the_reference(document: Path) -> None:
    known = (ROOT / ".env.example").read_text() + "".join(
        re.sub(r"^(?!\|).*$", "", path.read_text(), flags=re.MULTILINE) for path in (ROOT / "docs").glob("*.md")
    )
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b", document.read_text()))
    unknown = {
        name
        for name in named - FOREIGN
        if not re.search(rf"\b{name}\b", known)
        and not NOT_VARIABLES.fullmatch(name)
        and not name.startswith("PREFECT_")
    }
    assert not unknown


def test_the_settings_of_the_stack_are_read_by_the_stack() -> None:
    table = (ROOT / "docs" / "one-machine.md").read_text().partition("## Ports")[0]
    sources = [*(ROOT / "deployments").rglob("*.py"), *(ROOT / "blocks").glob("*.py"), ROOT / "Makefile"]
    code = "".join(path.read_text() for path in sources)
    missing = [
        name
        for name in re.findall(r"^\| `([A-Z_]+)`[ *]*\|", table, re.MULTILINE)
        if name not in code and f'env_prefix="{name[:11]}"' not in code
    ]
    assert not missing


@pytest.mark.parametrize("part", OLD_STEPS)
def test_every_line_of_the_old_way_has_a_row(part: str) -> None:
    rows = re.findall(
        rf"^\| {part}(\d+) \|([^|]+|.*\\\|.*)\|(.+)\|$", section("## Coming from the old way"), re.MULTILINE
    )
    assert [int(number) for number, _, _ in rows] == list(range(1, OLD_STEPS[part] + 1))
    assert all(old.strip() and new.strip() for _, old, new in rows)


def test_what_a_row_calls_missing_is_missing() -> None:
    there = set(deployed())
    absent = {"disconnect-gmail", "refresh-gmail-profiles", "set-maintenance"}
    assert not there & absent, "the README says that these are not there yet; tell of them now"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.is_file(), target
        if anchor:
            assert anchor in {slug(title) for title in re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)}, target


def slug(title: str) -> str:
    """The anchor that GitHub gives the heading ``title``."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\((docs/images/[^)]+)\)", README)
    assert pictures
    assert all((ROOT / picture).stat().st_size < 250_000 for picture in pictures)
