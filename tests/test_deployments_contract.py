"""What prefect.yaml, the flows and the steps promise to the UI and to whoever calls the API, without a stack."""

import importlib
import inspect
import pkgutil
import re
import string
from typing import Any

import pytest
import yaml
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.callables import parameter_schema

import flows
import tasks
from flows.outcome import NOWHERE
from tasks.registry.spec import SpecChanges
from tests.conftest import ROOT

NAMES = [
    "provision-client",
    "start-zero",
    "stop-zero",
    "restart-zero",
    "zero-logs",
    "diagnose-client",
    "build-zero-image",
    "upgrade-zero",
    "rotate-client-secrets",
    "deprovision-client",
    "adopt-zero",
    "send-zero-email",
    "list-zero-emails",
    "check-zero-health",
    "poll-fleet-health",
    "connect-gmail",
    "refresh-gmail-profile",
    "backup-database",
    "backup-fleet",
    "verify-backup",
    "restore-database",
    "prune-backups",
    "resend-backup",
    "send-test-email",
]
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    entry["entrypoint"].rpartition(".")[2].replace("_", "-"): entry
    for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
}
SECRET = re.compile(r"secret|token|passw|(^|_)key|credential|auth", re.IGNORECASE)
NAMES_OF_BLOCKS = {"registry_credentials"}
"""Parameters that hold the name of a block, which is no secret."""


def flow_of(name: str) -> Flow[Any, Any]:
    """The flow that a deployment's entrypoint names."""
    module, _, function = DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    found = getattr(importlib.import_module(module), function)
    assert isinstance(found, Flow)
    return found


def schema_of(name: str) -> dict[str, Any]:
    """The parameter schema that Prefect stores and its form shows."""
    return parameter_schema(flow_of(name)).model_dump_for_openapi()


def arguments_of(doc: str) -> dict[str, str]:
    """The texts of a docstring's ``Args:`` section, by parameter."""
    section = inspect.cleandoc(doc).partition("\nArgs:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in section.splitlines():
        new = re.fullmatch(r" {4}(\w+): (.*)", line)
        if new:
            name = new.group(1)
            found[name] = new.group(2)
        elif found:
            found[name] += " " + line.strip()
    return found


def unbounded(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> list[str]:
    """Places under ``schema`` where a caller may send a value of any size, or of no type."""
    if "$ref" in schema:
        return unbounded(definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
    for several in ("anyOf", "allOf", "oneOf"):
        if several in schema:
            return [bad for one in schema[several] for bad in unbounded(one, definitions, path)]
    if "enum" in schema or "const" in schema:
        return []
    kind = schema.get("type")
    if kind in ("boolean", "null"):
        return []
    if kind == "string":
        return [] if "maxLength" in schema else [f"{path}: a string without maxLength"]
    if kind in ("integer", "number"):
        bounds = {"maximum", "exclusiveMaximum"} & set(schema) and {"minimum", "exclusiveMinimum"} & set(schema)
        return [] if bounds else [f"{path}: a number without bounds"]
    if kind == "array":
        own = [] if "maxItems" in schema else [f"{path}: a list without maxItems"]
        return own + unbounded(schema.get("items", {}), definitions, f"{path}[]")
    if kind == "object" and "properties" in schema:
        own = [] if schema.get("additionalProperties") is False else [f"{path}: takes unknown fields"]
        members = schema["properties"].items()
        return own + [bad for name, one in members for bad in unbounded(one, definitions, f"{path}.{name}")]
    if kind == "object":
        own = [] if "maxProperties" in schema else [f"{path}: a mapping without maxProperties"]
        return own + unbounded(schema.get("additionalProperties") or {}, definitions, f"{path}{{}}")
    return [f"{path}: has no type"]


def properties(schema: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every property's name and default, at any depth."""
    found: list[tuple[str, Any]] = []
    for part in [schema, *schema.get("definitions", {}).values()]:
        found += [(name, one.get("default")) for name, one in part.get("properties", {}).items()]
    return found


def modules_under(package: Any) -> list[Any]:
    """Every module of ``package``, imported."""
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [importlib.import_module(name) for name in names if ".migrations" not in name]


def test_there_are_exactly_these_deployments():
    assert sorted(DEPLOYMENTS) == sorted(NAMES)
    assert {entry["name"] for entry in DEPLOYMENTS.values()} == {"default"}


def test_every_flow_in_the_house_is_deployed():
    found = {
        value.name for module in modules_under(flows) for value in vars(module).values() if isinstance(value, Flow)
    }
    assert found == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_flow_and_function_are_named_after_the_deployment(name):
    flow = flow_of(name)
    assert flow.name == name
    assert flow.fn.__name__ == name.replace("-", "_")
    assert inspect.iscoroutinefunction(flow.fn)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_type_and_bounds(name):
    schema = schema_of(name)
    definitions = schema.get("definitions", {})
    bad = [bad for one, part in schema["properties"].items() for bad in unbounded(part, definitions, f"{name}({one})")]
    assert not bad


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described_as_in_the_docstring(name):
    described = arguments_of(flow_of(name).fn.__doc__ or "")
    shown = {one: " ".join(part.get("description", "").split()) for one, part in schema_of(name)["properties"].items()}
    assert shown == described
    assert all(text.endswith((".", "`")) for text in described.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_deployment_says_what_it_does(name):
    flow = flow_of(name)
    assert flow.description and len(flow.description.splitlines()[0]) > 10


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_secret(name):
    for one, default in properties(schema_of(name)):
        assert one in NAMES_OF_BLOCKS or not SECRET.search(one), f"{name} has a parameter {one}"
        assert not (isinstance(default, str) and SECRET.search(default)), f"{name}({one}) = {default!r}"


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_named_after_what_they_do(name):
    flow = flow_of(name)
    template = flow.flow_run_name
    parameters = set(inspect.signature(flow.fn).parameters)
    if callable(template):
        assert template.__doc__ and parameters
        return
    assert isinstance(template, str)
    used = {field for _, field, _, _ in string.Formatter().parse(template) if field}
    assert used <= parameters
    assert template.split()[0] == name.split("-")[0], "a run's name starts with its verb"
    assert used or not parameters


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_flow_is_stored_besides_its_state(name):
    flow = flow_of(name)
    assert flow.persist_result is False
    assert flow.result_storage == NOWHERE and not NOWHERE.exists()
    assert not flow.retries


def test_every_step_stores_nothing_and_caches_nothing():
    found = {
        f"{module.__name__}.{name}": value
        for module in modules_under(tasks)
        for name, value in vars(module).items()
        if isinstance(value, Task)
    }
    assert len(found) >= 12
    assert {name for name in found if ".steps." not in name} == set()
    for name, step in found.items():
        assert step.persist_result is False, name
        assert step.cache_policy is NO_CACHE or step.cache_policy == NO_CACHE, name
        assert inspect.iscoroutinefunction(step.fn), name
        assert not step.retries, f"{name} would run again by itself"


def test_schedules_are_those_of_the_design_in_the_operators_time_zone():
    crons = {
        name: [schedule["cron"] for schedule in entry["schedules"]]
        for name, entry in DEPLOYMENTS.items()
        if entry.get("schedules")
    }
    assert crons == {
        "poll-fleet-health": ["* * * * *"],
        "backup-fleet": ["15 2 * * *"],
        "verify-backup": ["30 4 * * 0"],
    }
    for entry in DEPLOYMENTS.values():
        for schedule in entry.get("schedules", []):
            assert schedule["timezone"] == "{{ $TIME_ZONE }}"


def test_only_the_poll_has_a_limit():
    limited = {name for name, entry in DEPLOYMENTS.items() if entry.get("concurrency_limit")}
    assert limited == {"poll-fleet-health"}
    assert DEPLOYMENTS["poll-fleet-health"]["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW"


def test_only_the_poll_uses_its_own_queue():
    queues = {name: entry["work_pool"]["work_queue_name"] for name, entry in DEPLOYMENTS.items()}
    assert {name for name, queue in queues.items() if queue != "work"} == {"poll-fleet-health"}


def test_prefect_yaml_sets_no_parameters_and_no_job_variables():
    for entry in DEPLOYMENTS.values():
        assert "parameters" not in entry and "job_variables" not in entry["work_pool"]
    assert "prefect.blocks" not in (ROOT / "prefect.yaml").read_text()


def test_the_forms_of_the_spec_show_a_description_for_every_field():
    schema = SpecChanges.model_json_schema()
    missing = [name for name, field in schema["properties"].items() if not field.get("description")]
    assert not missing
    shown = schema_of("provision-client")["definitions"]["SpecChanges"]["properties"]
    assert {name: field["description"] for name, field in shown.items()} == {
        name: field["description"] for name, field in schema["properties"].items()
    }
