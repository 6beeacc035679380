"""What Prometheus gets: checked by its own library's parser, from a real gateway, Prefect server and registry."""

import asyncio
import logging
import math
import secrets
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from pydantic import SecretStr
from sqlalchemy import make_url, text
from sqlmodel import Session, delete

from blocks.backups import PostgresDatabase
from blocks.documents import delete as delete_block
from blocks.installation import installation
from blocks.registry import open_engine
from deployments.gateway import metrics
from deployments.gateway.app import build_app
from deployments.gateway.metrics import Figured, Kept, Metrics, read_fleet
from deployments.gateway.pages import SECURITY_HEADERS
from tasks.backups.figures import Figures, Fleet
from tasks.backups.source import Target
from tasks.clock import now
from tasks.errors import NotConfigured, Unreachable
from tasks.registry.models import BackupRun, Delivery, Status
from tasks.registry.queries import forget_client, register_client, update_instance
from tasks.registry.revision import upgrade
from tests.conftest import free_port
from tests.deployments.gateway.running import running_gateway

TOKEN = f"metrics-{secrets.token_hex(16)}"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def house(installed_registry):
    """A registry with a client that was backed up, one that was not, and the operator's own database; the token's block."""
    await Secret(value=SecretStr(TOKEN)).asave("metrics-token", overwrite=True)
    await PostgresDatabase(host="h", database="d", username="u").asave("app-database", overwrite=True)
    names = ("metricsgood", "metricsnever")
    for name in names:
        register_client(installed_registry, name)
        update_instance(installed_registry, name, status=Status.RUNNING, container_id="c0")
    taken = now() - timedelta(hours=3)
    row = BackupRun(
        target="client:metricsgood", run_id="r", started_at=taken, taken_at=taken, seconds=2.5, finished_at=taken,
        status="good", file_bytes=4096, delivery=Delivery.SENT, verified=True,
    )  # fmt: skip
    with Session(installed_registry) as session:
        session.add(row)
        session.add(BackupRun(target="client:metricsgood", run_id="r2", started_at=taken, status="failed", error="x"))
        session.commit()
    yield installed_registry
    for name in names:
        forget_client(installed_registry, name)
    with Session(installed_registry) as session:
        session.exec(delete(BackupRun))
        session.commit()
    await delete_block(Secret, "metrics-token")
    await delete_block(PostgresDatabase, "app-database")


@pytest.fixture
async def scraper():
    """A client of a gateway in this process that keeps nothing for later."""
    transport = httpx.ASGITransport(build_app(Metrics(seconds=0)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as client:
        yield client


def samples(exposition: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    found = {}
    for family in parse(exposition):
        assert family.type in ("gauge", "counter") and family.documentation
        for sample in family.samples:
            key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


async def test_every_figure_of_a_backed_up_client_is_there(house, scraper):
    reply = await scraper.get("/metrics", headers=BEARER)
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found, who = samples(reply.text), "client=metricsgood"
    age = found["zero_fleet_backup_age_seconds", who]
    assert 3 * 3600 <= age < 3 * 3600 + 300
    moment = found["zero_fleet_backup_last_success_timestamp_seconds", who]
    assert abs(now().timestamp() - age - moment) < 60
    assert found["zero_fleet_backup_last_verified_timestamp_seconds", who] == moment
    for name, value in (
        ("size_bytes", 4096), ("duration_seconds", 2.5), ("last_run_success", 0), ("verified", 1), ("delivered", 1),
    ):  # fmt: skip
        assert found[f"zero_fleet_backup_{name}", who] == value
    assert found["zero_fleet_backup_runs_total", who, "status=good"] == 1
    assert found["zero_fleet_backup_runs_total", who, "status=failed"] == 1
    assert found["zero_fleet_clients", "status=running"] >= 2 and found["zero_fleet_clients", "status=crash_loop"] == 0


async def test_who_was_never_backed_up_is_infinitely_old_and_has_no_size(house, scraper):
    found = samples((await scraper.get("/metrics", headers=BEARER)).text)
    for who in ("client=metricsnever", "database=app-database"):
        assert found["zero_fleet_backup_age_seconds", who] == math.inf
        assert found["zero_fleet_backup_last_success_timestamp_seconds", who] == 0
        assert ("zero_fleet_backup_size_bytes", who) not in found
        assert ("zero_fleet_backup_delivered", who) not in found


async def test_a_prometheus_that_prefers_openmetrics_gets_them(house, scraper):
    wants = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", **BEARER}
    reply = await scraper.get("/metrics", headers=wants)
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(reply.text)}
    assert families["zero_fleet_backup_runs"].type == "counter"
    assert families["zero_fleet_backup_size_bytes"].unit == "bytes"
    assert reply.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": f"Bearer {TOKEN}x"},
     {"Authorization": "Bearer "}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer ä".encode("latin-1")}],
)  # fmt: skip
async def test_without_the_right_token_there_is_nothing(house, scraper, headers):
    reply = await scraper.get("/metrics", headers=headers)
    assert reply.status_code == 401 and reply.headers["www-authenticate"].startswith("Bearer")
    assert "zero_fleet" not in reply.text and TOKEN not in reply.text and reply.text.count("\n") == 1
    auth = await scraper.get("/metrics", auth=("metrics", TOKEN))
    assert auth.status_code == 401


async def test_it_is_for_reading_only_and_has_the_security_headers(house, scraper):
    for method in ("HEAD", "POST", "PUT", "DELETE"):
        assert (await scraper.request(method, "/metrics", headers=BEARER)).status_code == 405
    for headers, status in ((BEARER, 200), ({}, 401)):
        reply = await scraper.get("/metrics", headers=headers)
        assert reply.status_code == status
        for name, value in SECURITY_HEADERS.items():
            assert reply.headers[name] == value


@pytest.mark.parametrize("value", [None, "", "  "])
async def test_without_a_token_there_are_no_metrics_at_all(house, scraper, value):
    await delete_block(Secret, "metrics-token")
    if value is not None:
        await Secret(value=SecretStr(value)).asave("metrics-token", overwrite=True)
    for headers in ({}, BEARER, {"Authorization": "Bearer "}, {"Authorization": "Bearer"}):
        reply = await scraper.get("/metrics", headers=headers)
        assert reply.status_code == 404 and reply.text.count("\n") == 1 and "metrics-token" in reply.text


async def test_a_token_of_digits_is_the_text_that_was_typed(house, scraper):
    await Secret(value=SecretStr("0012345678901234")).asave("metrics-token", overwrite=True)
    assert (await scraper.get("/metrics", headers={"Authorization": "Bearer 0012345678901234"})).status_code == 200


async def test_a_registry_that_is_missing_old_or_damaged_is_503_with_the_reason_in_the_log(
    house, scraper, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "zero_fleet.gateway")
    monkeypatch.setattr(installation(), "state", tmp_path)
    file = installation().registry_file

    async def refused(words: str) -> None:
        caplog.clear()
        reply = await scraper.get("/metrics", headers=BEARER)
        assert reply.status_code == 503 and "zero_fleet" not in reply.text, reply.text
        assert words in caplog.text and TOKEN not in caplog.text
        assert "GET /metrics -> 503" in caplog.text

    await refused(f"there is no registry at {file}; run `make up`")
    assert not file.exists()
    upgrade(f"sqlite:///{file}")
    with open_engine(make_url(f"sqlite:///{file}")).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    await refused("the registry's tables are of revision 0001")
    open_engine(make_url(f"sqlite:///{file}")).dispose()
    for left in tmp_path.glob("registry.sqlite*"):
        left.unlink()
    file.write_bytes(b"no database at all" * 1000)
    await refused("the registry does not answer (DatabaseError)")


async def test_a_registry_on_a_server_that_is_gone_is_503(house, scraper, caplog):
    given = {"host": "127.0.0.1", "port": free_port(), "database": "registry", "username": "u"}
    await PostgresDatabase(**given, password=SecretStr("hush-hush")).asave("registry", overwrite=True)
    try:
        reply = await scraper.get("/metrics", headers=BEARER)
        assert reply.status_code == 503 and "the registry does not answer (OperationalError)" in caplog.text
        assert "hush-hush" not in caplog.text
    finally:
        await delete_block(PostgresDatabase, "registry")


def test_without_a_file_it_makes_none(tmp_path):
    with pytest.raises(NotConfigured, match="there is no registry at"):
        read_fleet(open_engine(make_url(f"sqlite:///{tmp_path}/none.sqlite")), [])
    assert list(tmp_path.iterdir()) == []


async def test_many_scrapes_at_once_read_once(house, monkeypatch):
    read, times = metrics.read_fleet, []

    def counted(*given):
        times.append(given)
        return read(*given)

    monkeypatch.setattr(metrics, "read_fleet", counted)
    transport = httpx.ASGITransport(build_app(Metrics(seconds=600)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as client:
        replies = await asyncio.gather(*(client.get("/metrics", headers=BEARER) for _ in range(20)))
    assert {reply.status_code for reply in replies} == {200} and len(times) == 1


async def test_what_hangs_is_given_up_and_not_begun_again_beside_itself():
    began, go = [], asyncio.Event()

    async def read() -> int:
        began.append(1)
        await go.wait()
        return 7

    kept = Kept(read, "the registry", seconds=0, patience=0.05)
    for _ in range(3):
        with pytest.raises(Unreachable, match=r"the registry did not answer within 0.05 s"):
            await kept.get()
    go.set()
    patient = Kept(read, "the registry", seconds=0, patience=30)
    assert await patient.get() == 7 and await patient.get() == 7
    assert len(began) == 3


async def test_what_failed_is_tried_again_after_a_while():
    answers = [OSError("hush"), 7]

    async def read() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(read, "x", seconds=0, patience=30)
    with pytest.raises(OSError, match="hush"):
        await kept.get()
    assert await kept.get() == 7


def test_names_follow_prometheus_conventions():
    backups = [Figures(Target(client="a"), 1, 0, True, now(), 1.0, 1, True, Delivery.SENT, now())]
    names = {metric.name: metric for metric in Figured(Fleet(backups, {Status.RUNNING: 1}), now()).collect()}
    for name, metric in names.items():
        assert name.startswith("zero_fleet_") and name == name.lower() and not name.endswith("_total")
        assert not metric.unit or name.endswith(f"_{metric.unit}")
        assert metric.unit in ("", "seconds", "bytes")
        for sample in metric.samples:
            assert set(sample.labels) <= {"client", "database", "status"}
            assert sample.name == (f"{name}_total" if metric.type == "counter" else name)


def test_a_thousand_targets_are_one_answer_that_the_parser_reads():
    from prometheus_client import CollectorRegistry, generate_latest

    backups = [
        Figures(Target(client=f"c{number}"), 9, 1, True, now(), 1.0, 1, True, Delivery.FAILED) for number in range(1000)
    ]
    registry = CollectorRegistry()
    registry.register(Figured(Fleet(backups, dict.fromkeys(Status, 0)), now()))
    found = samples(generate_latest(registry).decode())
    assert len(found) == 1000 * 10 + len(Status)


async def test_the_gateways_log_never_holds_the_token(house, tmp_path):
    log: Path = tmp_path / "log"
    with running_gateway(free_port(), log, PREFECT_API_URL.value()) as base:
        async with httpx.AsyncClient(base_url=base, timeout=60, trust_env=False) as client:
            good = await client.get("/metrics", headers=BEARER)
            assert good.status_code == 200 and "zero_fleet_backup_age_seconds" in good.text
            assert (await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"})).status_code == 401
            assert (await client.get(f"/metrics?token={TOKEN}")).status_code == 401
    said = log.read_text()
    assert "GET /metrics -> 200" in said and "GET /metrics -> 401" in said and TOKEN not in said
