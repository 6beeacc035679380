"""The backups' steps of restore-database; what they share while one restore is under way is opened by ``restoring``."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.backups import BackupPolicy
from blocks.installation import installation
from tasks.backups import archive
from tasks.backups.chosen import Restoration
from tasks.backups.steps.backup_blocks import database_of, keeper_of_run, latest_of, policy, require_known, server
from tasks.errors import FleetError

if TYPE_CHECKING:  # they bring psycopg, which a flow's cold start can do without
    from tasks.backups.archive import OpenFile
    from tasks.backups.dump import Job
    from tasks.backups.keeper import Keeper
    from tasks.backups.loading import Loaded
    from tasks.backups.proof import Proven
    from tasks.backups.replacing import Place
    from tasks.backups.source import Database

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class _Underway:
    """One restore: what its steps know, each filled in by a step before the one that needs it. It holds secrets."""

    wanted: Restoration
    keeper: "Keeper"
    policy: BackupPolicy
    latest: Path
    server: "Database"
    """Where databases are made from: the maintenance database, as a role that may."""
    database: "Database | None"
    """The one that is restored over; for a client also None, where it is gone and only its backups are left."""
    stack: ExitStack
    cancelled: threading.Event = field(default_factory=threading.Event)
    file: "OpenFile | None" = None
    proven: "Proven | None" = None
    saved_at: int | None = None
    """What had been written to the database of a block when its safety backup was begun."""

    def place(self) -> "Place":
        """Of a block: its database and where it is replaced from."""
        from tasks.backups.replacing import Place

        assert self.database is not None
        return Place(self.database, self.server, installation().fleet, self.wanted.whose)


_open: dict[str, _Underway] = {}


@asynccontextmanager
async def restoring(wanted: Restoration) -> AsyncIterator[None]:
    """Hold the target's restores alone, drop what a killed one left half made, and leave nothing half made behind.

    Raises:
        Conflict: another run restores the same target.
        NotFound: no such client, and no backup of one.
        FleetError: a block is missing, or the server does not answer.
    """
    key, keeper, given, stack = wanted.whose.key, await keeper_of_run(), await policy(), ExitStack()
    try:
        holder = keeper.hold(f"restore-{key}", f"restore of {wanted.whose.spoken}")
        await asyncio.to_thread(stack.enter_context, holder)
        database = await _database(keeper, wanted)
        place = await _server(database, wanted)
        underway = _open[key] = _Underway(wanted, keeper, given, latest_of(wanted.whose, given), place, database, stack)
        try:
            await _to_its_end(underway, _sweep, underway)
            yield
        finally:
            del _open[key]
            await _leave_nothing_half_made(underway)
    finally:
        await asyncio.to_thread(stack.close)


async def _leave_nothing_half_made(underway: _Underway) -> None:
    """What fails here must not hide why the restore failed; the next restore of the target does it then."""
    try:
        await asyncio.to_thread(_drop_half_made, underway)
    except FleetError as error:
        get_run_logger().warning("%s: %s", underway.wanted.whose.spoken, error)


async def _database(keeper: "Keeper", wanted: Restoration) -> "Database | None":
    if wanted.whose.client and wanted.into:  # of a client that is gone the backups are left
        await require_known(keeper, wanted.whose)
        return None
    return (await database_of(keeper, wanted.whose))[0]


async def _server(database: "Database | None", wanted: Restoration) -> "Database":
    from tasks.backups import halfmade

    if wanted.whose.client or database is None:
        return await server()
    return await asyncio.to_thread(halfmade.maintenance, database)


def _sweep(underway: _Underway) -> None:
    """Drop what killed restores left half made: this target's, and others' that nobody works on."""
    from tasks.backups import sweeping

    sweeping.sweep(underway.keeper, underway.server, installation().fleet, underway.wanted.whose)


def _drop_half_made(underway: _Underway) -> None:
    from tasks.backups import halfmade

    with halfmade.connected(underway.server) as connection:
        halfmade.drop(connection, halfmade.of(installation().fleet, underway.wanted.whose.key))


@task(name="choose and prove the backup", cache_policy=NO_CACHE, persist_result=False)
async def choose_backup(wanted: Restoration) -> str:
    """Find the file that is meant, prove it, and refuse what could not be restored. Nothing is touched. The backup, in words.

    Raises:
        NotFound: there is no such backup.
        Damaged, Refused: it cannot be restored; nothing was touched.
    """
    underway = _open[wanted.whose.key]
    await _to_its_end(underway, _prove, underway)
    assert underway.proven is not None
    words = underway.proven.words(underway.keeper.time_zone)
    get_run_logger().info("%s: %s is whole and can be restored", wanted.whose.spoken, words)
    return words


def _prove(underway: _Underway) -> None:
    from tasks.backups import chosen, halfmade, history, proof, replacing, scratch
    from tasks.backups import dump as dumps
    from tasks.backups.archive import disk_error

    wanted, keeper = underway.wanted, underway.keeper
    with halfmade.connected(underway.server) as connection:
        major = connection.info.server_version // 10_000
        if wanted.into or wanted.whose.database:
            halfmade.refuse(connection, underway.server, wanted.into)
        if wanted.into and wanted.whose.client:
            halfmade.refuse_role(connection, underway.server, wanted.into)
        if wanted.whose.database and not wanted.into:
            _refuse_registry(underway)
            replacing.refuse(connection, underway.place())
    with keeper.hold(wanted.whose.lock, f"look at the backup of {wanted.whose.spoken}"):
        history.settle(keeper.engine, wanted.whose, underway.latest)
        path = underway.latest
        try:
            path = chosen.find(wanted, underway.latest, keeper.time_zone)
            underway.file = underway.stack.enter_context(archive.opened(path))
        except OSError as error:
            raise disk_error(error, path) from None
    underway.proven = proof.prove(underway.file, path, wanted.whose, not wanted.into, major, underway.server.server)
    with halfmade.connected(underway.server) as connection:
        scratch.require_room(connection, underway.server, underway.proven.needed, "restore")
    if wanted.safety_backup and not wanted.into:
        with _or_without_it():
            dumps.look_ahead(_job(underway, underway.database))


def _refuse_registry(underway: _Underway) -> None:
    from sqlalchemy import text

    from tasks.backups import chosen, replacing

    engine = underway.keeper.engine
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as session:
        pid, name, role = session.execute(text("SELECT pg_backend_pid(), current_database(), current_user")).one()
        if replacing.holds_registry(underway.place(), (pid, name, role)):
            raise chosen.registry_in_use(underway.wanted.whose)


@task(name="load the backup beside", cache_policy=NO_CACHE, persist_result=False)
async def load_backup(wanted: Restoration, name: str = "") -> "Loaded":
    """Load the backup into a database beside the old one and compare it with its manifest.

    Args:
        name: of an empty database that is there; empty: a new one is made, half made until it is given its name.

    Raises:
        Damaged: it does not restore to what was dumped.
        FleetError: it could not be loaded.
    """
    underway = _open[wanted.whose.key]
    loaded = await _to_its_end(underway, _load, underway, name)
    get_run_logger().info("%s: %s", wanted.whose.spoken, loaded.sentence)
    for said in loaded.kept_rights:
        get_run_logger().warning("%s: an owner or a right could not be given back: %s", wanted.whose.spoken, said)
    return loaded


def _load(underway: _Underway, name: str) -> "Loaded":
    from tasks.backups import halfmade, loading

    wanted, proven, file = underway.wanted, underway.proven, underway.file
    assert proven is not None and file is not None
    grants = proven.manifest.grants if proven.manifest else ""
    if name:
        assert underway.database is not None
        into, rights = replace(underway.database, name=name), loading.without_database(grants)
    else:
        half = halfmade.of(installation().fleet, wanted.whose.key)
        like = underway.database.name if underway.database else ""
        password = secrets.token_urlsafe(24) if wanted.whose.client else ""
        with halfmade.connected(underway.server) as connection:
            halfmade.make(connection, half, proven.manifest.encoding if proven.manifest else "", like, password)
        into = replace(underway.server, name=half.name)
        if password:
            into = replace(into, user=half.name, password=password)
        rights = "" if wanted.whose.client else grants if wanted.into else loading.without_database(grants)
    job = loading.Loading(into, underway.policy.restore_seconds, installation().pg_bin, underway.cancelled, rights)
    return loading.load(file, proven, job)


@task(name="give the new database its name", cache_policy=NO_CACHE, persist_result=False)
async def give_name(wanted: Restoration, backup: str) -> str:
    """Let the restored database be called as was asked for; its server. A client's lets only the provisioner in.

    Raises:
        Conflict: the name was taken meanwhile.
    """
    underway = _open[wanted.whose.key]
    await _to_its_end(underway, _give_name, underway, backup)
    return underway.server.server


def _give_name(underway: _Underway, backup: str) -> None:
    from tasks.backups import halfmade, loading

    wanted, manifest = underway.wanted, underway.proven.manifest if underway.proven else None
    public = bool(wanted.whose.database and manifest and loading.open_to_all(manifest.grants))
    with halfmade.connected(underway.server) as connection:
        comment = f"{wanted.whose.spoken}: restored from {backup}"
        half = halfmade.of(installation().fleet, wanted.whose.key)
        halfmade.give_name(connection, half, wanted.into, comment, public)


@task(name="back up what is there now", cache_policy=NO_CACHE, persist_result=False)
async def back_up_before(wanted: Restoration) -> str:
    """Make a safety backup of the database that is about to be replaced; where it lies, or nothing where none is wanted.

    Raises:
        FleetError: it could not be made.
    """
    underway = _open[wanted.whose.key]
    if not wanted.safety_backup:
        return ""
    path = await _to_its_end(underway, _back_up, underway)
    get_run_logger().info("%s: what there is now is saved in %s", wanted.whose.spoken, path)
    return str(path)


def _back_up(underway: _Underway) -> Path:
    from tasks.backups import halfmade, replacing, safety

    if underway.wanted.whose.database:
        with halfmade.connected(underway.server) as connection:
            underway.saved_at = replacing.written(connection, underway.place().database.name)
    with _or_without_it():
        return safety.back_up(underway.keeper, _job(underway, underway.database)).path


@contextmanager
def _or_without_it() -> Iterator[None]:
    """What stops a safety backup, with the way on where the database cannot be saved any more."""
    try:
        yield
    except FleetError as error:
        raise type(error)(
            error.what,
            f"{error.cure}; or, when it can not be saved any more, run again with safety_backup=false: what is in it now is lost then",
        ) from None


def _job(underway: _Underway, database: "Database | None") -> "Job":
    from tasks.backups import dated
    from tasks.backups.dump import Job

    assert database is not None
    given = underway.policy
    return Job(
        underway.wanted.whose,
        database,
        underway.latest,
        underway.keeper.run_id,
        given.timeout_seconds,
        given.stall_seconds,
        installation().pg_bin,
        underway.server.user,
        dated.SAFETY,
        given.must_be_mounted,
        cancelled=underway.cancelled,
    )


@task(name="end what a cut-off restore left", cache_policy=NO_CACHE, persist_result=False)
async def end_cut_off(wanted: Restoration) -> None:
    """Finish a restore over a block's database that was killed after the swap: what it replaced is saved once more if need be, and
    dropped.

    Raises:
        FleetError: it could not be saved, so it stays.
    """
    underway = _open[wanted.whose.key]
    if wanted.whose.client or underway.database is None:
        return
    said = await _to_its_end(underway, _end_cut_off, underway)
    if said:
        get_run_logger().warning("%s: %s", wanted.whose.spoken, said)


def _end_cut_off(underway: _Underway) -> str:
    from tasks.backups import halfmade, replacing

    place = underway.place()
    with halfmade.connected(place.server) as connection:
        if replacing.left(connection, place) is None:
            return ""
        if replacing.put_back(connection, place):
            return f"a restore was cut off, and its database is gone: {place.database.name} is what it was before"
    saved = _drop_old(underway)
    return "a restore that was cut off is finished" + (f"; what it replaced lies in {saved}" if saved else "")


@task(name="put the restored database in its place", cache_policy=NO_CACHE, persist_result=False)
async def take_its_place(wanted: Restoration, safety: str) -> str:
    """Swap the restored database in, end the sessions on the old one, and drop that when it is saved; where it is saved.

    Args:
        safety: where the backup of the old one lies; another is made of what was written since that was begun.

    Raises:
        Conflict: somebody uses it who may not be disconnected; nothing was changed then.
        FleetError: what was written since could not be saved; the old one is kept then.
    """
    underway = _open[wanted.whose.key]
    again = await _to_its_end(underway, _take_place, underway)
    if again:
        get_run_logger().info(
            "%s: it was written to meanwhile, so it was saved again, in %s", wanted.whose.spoken, again
        )
    return str(again or safety)


def _take_place(underway: _Underway) -> Path | None:
    from tasks.backups import halfmade, replacing

    place = underway.place()
    with underway.keeper.hold(underway.wanted.whose.lock, f"restore of {underway.wanted.whose.spoken}"):
        replacing.swap(place, halfmade.of(installation().fleet, underway.wanted.whose.key), underway.saved_at)
    return _drop_old(underway)


def _drop_old(underway: _Underway) -> Path | None:
    """Drop the old database of a block when it is saved; the safety backup that had to be made for that."""
    from tasks.backups import halfmade, replacing, safety

    place, path = underway.place(), None
    with halfmade.connected(place.server) as connection:
        unsaved = underway.wanted.safety_backup and replacing.unsaved(connection, place)
    if unsaved:
        try:
            path = safety.back_up(underway.keeper, _job(underway, place.set_aside)).path
        except FleetError as error:
            raise type(error)(
                f"{place.database.name} is the restored one, and the old one stays as {place.old} at {place.database.server}, "
                f"because what was written to it last could not be saved ({error.what})",
                f"{error.cure}; the next restore-database saves and drops it",
            ) from None
    with halfmade.connected(place.server) as connection:
        replacing.drop_old(connection, place)
    return path


async def _to_its_end(underway: _Underway, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """``act`` in a thread; cancelled meanwhile, it is told so, and the cancelling goes on when it has ended."""
    work: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(act, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        underway.cancelled.set()
        await asyncio.wait({work})
        raise
