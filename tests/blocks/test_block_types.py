"""Every block type is usable in the UI's form by someone who has never seen the code, and documented."""

import re
from pathlib import Path

import pytest

from deployments.bootstrap.difference import secret_fields
from deployments.bootstrap.kinds import FOREIGN, OURS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
SECRET = re.compile(r"password|secret|token$|_key$|^code|^state$|^keys$")


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_it_has_a_description_a_logo_and_a_documentation_page(kind):
    made = kind._to_block_type()
    assert made.description and made.logo_url and made.documentation_url
    assert made.name.startswith("Zero Fleet ") and made.slug.startswith("zero-fleet-")


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_field_has_a_title_and_a_description(kind):
    assert [name for name, field in kind.model_fields.items() if not (field.title and field.description)] == []


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_what_sounds_secret_is_secret(kind):
    suspects = {name for name in kind.model_fields if SECRET.search(name)}
    assert suspects <= secret_fields(kind)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind):
    heading = f"### {kind.get_block_type_name()}\n"
    assert heading in DOCUMENT
    section = DOCUMENT.split(heading)[1].split("\n### ")[0]
    missing = [name for name, field in kind.model_fields.items() if f"| `{name}` | {field.title} |" not in section]
    stale = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) - set(kind.model_fields)
    assert (missing, stale) == ([], set())


def test_foreign_block_types_are_documented():
    assert [kind.get_block_type_name() for kind in FOREIGN if kind.get_block_type_name() not in DOCUMENT] == []


def test_all_block_classes_of_the_package_are_registered():
    import importlib
    import pkgutil

    from prefect.blocks.core import Block

    import blocks

    found = set()
    for module in pkgutil.iter_modules(blocks.__path__):
        members = vars(importlib.import_module(f"blocks.{module.name}")).values()
        found |= {cls for cls in members if isinstance(cls, type) and issubclass(cls, Block) and cls is not Block}
    assert {cls for cls in found if cls.__module__.startswith("blocks.")} == set(OURS)
