"""Bootstrap itself: the settings become blocks, the registry gets its tables. Run it any number of times."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from blocks.documents import DoesNotFit
from blocks.installation import installation
from blocks.registry import registry_url
from deployments.bootstrap.difference import WRITTEN, BlockDifference, Outcome, compare, merged
from deployments.bootstrap.environment import misspelt, read_what_can_be
from deployments.bootstrap.gmail_import import import_grant
from deployments.bootstrap.google_files import GoogleFiles, read_google_files
from deployments.bootstrap.kinds import ALL, register_all
from deployments.bootstrap.plan import WITHOUT, Plan, Wanted, make_plan
from deployments.bootstrap.refusals import BadSettings, Refusals
from deployments.bootstrap.report import Report
from deployments.bootstrap.written import Written, read_written, remember
from tasks.errors import Conflict, Damaged, NotConfigured, Unreachable
from tasks.registry import revision


@dataclass(frozen=True)
class Document:
    """A block that is there: its data with the secrets, and when Prefect says that it was changed."""

    data: Mapping[str, Any] = field(repr=False)
    updated: str


Existing = Mapping[str, Document]


async def bootstrap(
    values: Mapping[str, str],
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    given: Iterable[Wanted] = (),
    refused: Iterable[str] = (),
) -> Report:
    """Register the block types, save the blocks that ``values`` call for, and bring the registry's tables up to date.

    Everything is read and judged before anything is written. A block that is still as bootstrap left it follows the
    settings; one that was edited since, or that somebody else made, is kept, and what differs is shown.
    Needs Prefect's address (PREFECT_API_URL, PREFECT_API_AUTH_STRING, or a profile).

    Args:
        values: environment variable to text (``environment.read_values``).
        overwrite: put the settings also into blocks that somebody edited.
        dry_run: look only.
        given: blocks of the stack itself, for names that ``values`` say nothing about.
        refused: sentences about settings that are refused already, to be told along with the others.

    Returns:
        What was done.

    Raises:
        BadSettings: settings are refused, all of them named at once; no block was touched.
        Damaged: a block that is there does not fit its type.
        NotConfigured: Prefect's address is not set.
        Unreachable: Prefect or the registry's database does not answer.
    """
    started = time.monotonic()
    plan, files = await asyncio.to_thread(judge, values, given, refused)
    if not PREFECT_API_URL.value():  # Prefect would start a server of its own and keep the secrets there
        raise NotConfigured("PREFECT_API_URL is not set", "set it to the API of your Prefect server, or run `make up`")
    try:
        async with get_client() as client:
            existing, written = await asyncio.gather(_existing(client, plan.wanted), read_written(client))
            blocks = [_judge(wanted, existing, written, overwrite) for wanted in plan.wanted]
            count, registry = await asyncio.gather(_register(client, dry_run), _registry(dry_run))
            if not dry_run:
                await _write(client, plan.wanted, blocks, existing, written, overwrite)
            imported = await import_grant(client, files.grant, again=overwrite, dry_run=dry_run)
    except DoesNotFit as error:
        raise Damaged(error.what, error.cure) from None
    except httpx.TransportError:
        raise Unreachable(
            "Prefect's API does not answer", "start the stack with `make up`, or set PREFECT_API_URL"
        ) from None
    except PrefectHTTPStatusError as answer:
        code = answer.response.status_code
        cure = "set PREFECT_API_AUTH_STRING" if code in (401, 403) else "see the Prefect server's log"
        raise Unreachable(f"Prefect's API answers {code} to {answer.request.url.path}", cure) from None
    notes = [*plan.warnings, *misspelt(values), *imported, *plan.without(existing)]
    return Report(count, tuple(blocks), registry, tuple(notes), dry_run, time.monotonic() - started)


def judge(
    values: Mapping[str, str], given: Iterable[Wanted] = (), refused: Iterable[str] = ()
) -> tuple[Plan, GoogleFiles]:
    """What ``values`` call for, and what was read from the files that they name; see ``bootstrap``, nothing is touched.

    Raises:
        BadSettings: settings are refused, all of them named at once, ``refused`` too.
    """
    environment, wrong = read_what_can_be(values)
    refusals = Refusals()
    refusals.sentences += [*refused, *wrong]
    files = refusals.attempt(read_google_files, environment) or GoogleFiles()
    plan = refusals.attempt(make_plan, environment, files, given)
    if plan is None or refusals.sentences:  # a misspelt name is often why another one is missing
        raise BadSettings([*refusals.sentences, *misspelt(values)])
    return plan, files


async def _existing(client: PrefectClient, wanted: Iterable[Wanted]) -> Existing:
    """The blocks that are there, by name; one call for all of them."""
    kinds = {block.name: block.kind.get_block_type_slug() for block in wanted}
    names = sorted({*kinds, *WITHOUT})
    asked = {"include_secrets": True, "limit": 200, "block_documents": {"name": {"any_": names}}}
    answer = await client.request("POST", "/block_documents/filter", json=asked)
    found = answer.json()
    # A name is free again for each type: another type's block of the same name is not ours.
    return {
        document["name"]: Document(document["data"], document["updated"])
        for document in found
        if kinds.get(document["name"], document["block_type"]["slug"]) == document["block_type"]["slug"]
    }


async def _register(client: PrefectClient, dry_run: bool) -> int:
    return len(ALL) if dry_run else await register_all(client)


def _ours(name: str, existing: Existing, written: Mapping[str, Written]) -> tuple[str, ...] | None:
    """The fields that bootstrap wrote of the block ``name``, when nobody saved it since; else None."""
    there, remembered = existing.get(name), written.get(name)
    return remembered.fields if there and remembered and there.updated == remembered.updated else None


def _judge(wanted: Wanted, existing: Existing, written: Mapping[str, Written], overwrite: bool) -> BlockDifference:
    there = existing.get(wanted.name)
    ours = _ours(wanted.name, existing, written)
    return compare(wanted, there.data if there else None, overwrite=overwrite, ours=ours)


async def _write(
    client: PrefectClient,
    wanted: Sequence[Wanted],
    blocks: Sequence[BlockDifference],
    existing: Existing,
    written: Mapping[str, Written],
    overwrite: bool,
) -> None:
    """Write what is to be written, and remember it: before, since this may be killed, and after, with Prefect's time of it.

    Also remembered is what needs no change: a block that a killed bootstrap wrote, and with ``overwrite`` every one.
    """
    ours = {
        block.name
        for block, difference in zip(wanted, blocks, strict=True)
        if difference.outcome in WRITTEN
        or (difference.outcome is Outcome.UNCHANGED and (overwrite or _pending(block.name, written)))
    }
    fields = {block.name: tuple(block.values) for block in wanted if block.name in ours}
    if any(difference.outcome in WRITTEN for difference in blocks):
        # With the old time and fields: killed before it was written, the block is still as it was left.
        await remember(
            client,
            {**written, **{name: replace(written.get(name, Written("")), pending=True) for name in fields}},
        )
        await _save(client, wanted, blocks, existing, written)
        existing = await _existing(client, wanted)
    after = {name: Written(existing[name].updated, said) for name, said in fields.items() if name in existing}
    if any(written.get(name) != one for name, one in after.items()):
        await remember(client, {**written, **after})


def _pending(name: str, written: Mapping[str, Written]) -> bool:
    remembered = written.get(name)
    return remembered is not None and remembered.pending


async def _save(
    client: PrefectClient,
    wanted: Iterable[Wanted],
    blocks: Iterable[BlockDifference],
    existing: Existing,
    written: Mapping[str, Written],
) -> None:
    """Save the blocks that are to be; one after the other, since SQLite has one writer."""
    for block, difference in zip(wanted, blocks, strict=True):
        if difference.outcome not in WRITTEN:
            continue
        there = existing.get(block.name)
        future = merged(block, there.data if there else None, _ours(block.name, existing, written) or ())
        try:
            await future.asave(block.name, overwrite=there is not None, client=client)
        except ValueError as failed:
            if not isinstance(failed.__cause__, ObjectAlreadyExists):
                raise
            raise Conflict(
                f"the block {block.name} was made by somebody else just now", "run again to compare"
            ) from None


async def _registry(dry_run: bool) -> str:
    """Migrate the registry; what it is now, in words."""
    url = make_url(await registry_url())
    where = "SQLite" if url.get_backend_name() == "sqlite" else f"PostgreSQL on {url.host}"
    if not dry_run:
        try:
            if where == "SQLite":
                installation().registry_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await asyncio.to_thread(revision.upgrade, url.render_as_string(hide_password=False))
        except (OperationalError, OSError):
            raise Unreachable(
                f"the registry ({where}) cannot be opened",
                "see that the state folder can be written, or that the block registry is right and its server is up",
            ) from None
    return f"{where} at revision {revision.HEAD}" if not dry_run else where
