"""Looking at the container: is it there, is it ours, does it run, since when, and what do its last words mean?"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tasks.clients import images
from tasks.clients.containers import Seen
from tasks.clients.diagnosis import Check, Line, bad, good, quantity, size, span, unknown
from tasks.clients.engine import answers
from tasks.clients.readiness import looping, reason
from tasks.clients.secrets import redact
from tasks.clock import now
from tasks.registry.models import Status

if TYPE_CHECKING:
    from docker import DockerClient

YOUNG = 120.0
"""Seconds: a container that was restarted and runs no longer than this crashes in a loop."""
RECENT = timedelta(minutes=15)
LOG_LINES = 300
FULL = 0.9
"""Share of its memory above which a container is about to be killed for it."""
_ERROR = re.compile(
    r"\berr(or)?\b|\w+Error\b|exception|fatal|panic|unhandled|ECONN|CONNECT_TIMEOUT|ENOTFOUND|permission denied|out of memory",
    re.IGNORECASE,
)


def engine_line(version: dict[str, Any], info: dict[str, Any]) -> Line:
    """The engine, as it answered."""
    return good(
        Check.ENGINE,
        f"{info.get('Name', 'it')} answers: Docker {version.get('Version', '?')} on {info.get('OperatingSystem', '?')}, "
        f"{info.get('NCPU', '?')} cores, {size(info.get('MemTotal') or 0)}",
    )


def image_line(client: "DockerClient", image: str, recorded: str, seen: Seen | None, slug: str) -> Line:
    """Whether the recorded image is there and runs, and whether its name means another one by now."""
    again = f"run provision-client for {slug}"
    if not recorded:
        return unknown(Check.IMAGE, f"no image of {slug} is recorded yet", again)
    short = _short(recorded)
    if seen is not None and seen.image_id != recorded:
        return bad(Check.IMAGE, f"the container runs {_short(seen.image_id)}, recorded is {short} ({image})", again)
    if images.local(client, recorded) is None:
        return bad(
            Check.IMAGE,
            f"{image} ({short}) is not on the Docker host any more, so the container could not be made anew",
            f"pull or load {image} there, then run provision-client for {slug}",
        )
    named = images.local(client, image)
    if named is None:
        return good(
            Check.IMAGE, f"{short} is there; the name {image} is not", f"give it back: docker tag {short} {image}"
        )
    if named != recorded:
        return good(
            Check.IMAGE,
            f"{short} is there, as recorded; the name {image} means {_short(named)} by now",
            f"run upgrade-zero for {slug} to move there",
        )
    return good(Check.IMAGE, f"{image} is there ({short}), as recorded")


def container_line(
    seen: Seen | None,
    found: dict[str, Any] | None,
    lines: Sequence[str],
    *,
    slug: str,
    name: str,
    enabled: bool,
    status: Status | None,
    memory: int,
) -> Line:
    """The container's state in words.

    Args:
        found: the engine's long answer.
        lines: the end of its log, redacted.
        memory: its limit in MiB.
    """
    start = f"run start-zero for {slug}"
    if seen is None or found is None:
        return bad(Check.CONTAINER, f"there is no container {name}", f"run provision-client for {slug}")
    up, restarts = uptime(found), seen.restart_count
    if seen.state == "restarting" or (seen.running and restarts and up is not None and up < YOUNG):
        return _ended(
            looping(seen, restarts),
            seen,
            lines,
            name,
            slug,
            memory,
        )
    if seen.running:
        if not enabled:
            return bad(Check.CONTAINER, "it runs, and the client is not enabled", f"run stop-zero for {slug}")
        health = (found["State"].get("Health") or {}).get("Status", "")
        if health == "unhealthy":
            return bad(
                Check.CONTAINER, "it runs, and its image's own health check fails", f"run restart-zero for {slug}"
            )
        before = f", restarted {quantity(restarts, 'time')} before" if restarts else ""
        return good(Check.CONTAINER, f"it runs since {span(up or 0)}{before}")
    if not enabled:
        return good(Check.CONTAINER, f"{seen.state}, because the client is not enabled")
    if seen.state == "paused":
        return bad(Check.CONTAINER, "it is paused", start)
    if seen.state == "created":
        why = redact(" ".join(str(found["State"].get("Error") or "").split())[:300], ())
        return bad(Check.CONTAINER, "it was made and never ran" + (f" ({why})" if why else ""), start)
    if status in (Status.STOPPED, Status.STOPPING) and not seen.oom_killed:
        return bad(Check.CONTAINER, f"it was stopped (exit code {seen.exit_code})", start)
    return _ended(f"it ended with exit code {seen.exit_code}", seen, lines, name, slug, memory)


def _ended(why: str, seen: Seen, lines: Sequence[str], name: str, slug: str, memory: int) -> Line:
    if seen.oom_killed:
        return bad(
            Check.CONTAINER,
            f"{why}; it was killed for want of memory ({memory} MiB)",
            "give it more with spec.memory of provision-client",
        )
    known = reason(lines, name)
    if known is not None:
        return bad(Check.CONTAINER, f"{why}: {known[0]}", known[1])
    last = f"; it last said: {lines[-1]}" if lines else ""
    return bad(Check.CONTAINER, f"{why}{last}", f"run start-zero for {slug}, and read zero-logs when it ends again")


def uptime(found: dict[str, Any]) -> float | None:
    """Seconds since the container's process was started; None: it does not run."""
    started = found["State"].get("StartedAt") or ""
    if not found["State"].get("Running") or started.startswith("0001"):
        return None
    return max((now() - moment(started)).total_seconds(), 0.0)


def moment(text: str) -> datetime:
    """Docker's moment, which has nanoseconds.

    >>> moment("2026-01-02T03:04:05.123456789Z").microsecond
    123456
    """
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))


def log_tail(client: "DockerClient", seen: Seen, secrets: Sequence[str]) -> list[tuple[datetime, str]]:
    """The end of the container's log, redacted, each line with its moment."""
    with answers(f"read the log of {seen.name}"):
        raw: bytes = client.api.logs(seen.id, stdout=True, stderr=True, tail=LOG_LINES, timestamps=True)
    found = []
    for line in raw.decode("utf-8", "replace").splitlines():
        stamp, _, said = line.partition(" ")
        try:
            found.append((moment(stamp), redact(said, secrets)[:300]))
        except ValueError:
            continue
    return found


def log_line(tail: Sequence[tuple[datetime, str]], running: bool, name: str, slug: str) -> Line:
    """What the last errors in the log mean; of one that runs, only recent ones count.

    Args:
        name: of the container, which is also the role's.
    """
    errors = [(at, said) for at, said in tail if _ERROR.search(said)]
    if not errors:
        return good(Check.LOG, f"no errors among its last {quantity(len(tail), 'line')}")
    at, last = errors[-1]
    known = reason([said for _, said in errors], name)
    ago = (now() - at).total_seconds()
    if running and ago > RECENT.total_seconds():
        return good(Check.LOG, f"the last error is {span(ago)} old: {last}")
    if known is not None:
        return bad(
            Check.LOG, f"{known[0]} ({quantity(len(errors), 'line')}, the last {span(ago)} ago: {last})", known[1]
        )
    return unknown(
        Check.LOG,
        f"{quantity(len(errors), 'line')} of errors, the last {span(ago)} ago: {last}",
        f"read zero-logs of {slug}",
    )


def networks_line(found: dict[str, Any] | None, wanted: Sequence[str], name: str, adopted: bool = False) -> Line:
    """Whether the container is in the networks that it should be in; one that was made by hand will be when it is made anew."""
    if found is None:
        return unknown(Check.NETWORKS, "there is no container")
    joined = list((found.get("NetworkSettings") or {}).get("Networks") or {})
    missing = [network for network in wanted if network not in joined]
    if missing and adopted:
        return good(Check.NETWORKS, f"it is in {', '.join(joined)}, as it was made by hand")
    if missing:
        return bad(
            Check.NETWORKS,
            f"it is not in {', '.join(missing)} (it is in {', '.join(joined) or 'none'})",
            "; ".join(f"docker network connect {network} {name}" for network in missing),
        )
    return good(Check.NETWORKS, f"it is in {', '.join(joined)}")


def resources_line(client: "DockerClient", seen: Seen | None) -> Line:
    """CPU, memory and network in use, from one sample of the engine (1-2 s)."""
    if seen is None or not seen.running:
        return unknown(Check.RESOURCES, "it does not run, so it uses none")
    with answers(f"measure {seen.name}"):
        sample = client.api.stats(seen.id, stream=False)
    memory = sample.get("memory_stats") or {}
    used = (memory.get("usage") or 0) - ((memory.get("stats") or {}).get("inactive_file") or 0)
    limit = memory.get("limit") or 0
    networks = (sample.get("networks") or {}).values()
    received, sent = (sum(one.get(way, 0) for one in networks) for way in ("rx_bytes", "tx_bytes"))
    said = (
        f"{_cores(sample):.0%} of a core, {size(used)} of {size(limit)}, "
        f"{quantity((sample.get('pids_stats') or {}).get('current') or 0, 'process', 'processes')}, "
        f"received {size(received)}, sent {size(sent)}"
    )
    if limit and used / limit > FULL:
        return bad(
            Check.RESOURCES, said, "give it more with spec.memory of provision-client before it is killed for it"
        )
    return good(Check.RESOURCES, said)


def _cores(sample: dict[str, Any]) -> float:
    now_, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    busy = (now_.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    passed = now_.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    return float(busy / passed * (now_.get("online_cpus") or 1)) if passed > 0 else 0.0


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
