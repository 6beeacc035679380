"""What the one-machine stack's Prefect server does its own way, seen from within its process."""

import asyncio
import gc
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from deployments.one_machine import prefect_server

BUSY_SECONDS = 10
NUMBERS = sa.table("numbers", sa.column("number"))


async def test_garbage_of_a_failed_statement_does_not_wait_for_its_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(aiosqlite.Cursor, "_execute", prefect_server._close_what_fails)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db", connect_args={"timeout": BUSY_SECONDS})
    async with engine.connect() as waits, engine.connect() as holds:
        await waits.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        await waits.execute(NUMBERS.insert().values(number=1))
        await waits.commit()
        error = await _failed(waits)
        await waits.rollback()
        await holds.execute(NUMBERS.insert().values(number=2))  # takes the write lock
        waiting = asyncio.create_task(_one(waits, 3))
        await asyncio.sleep(0.5)
        del error
        gc.collect()
        await holds.commit()
        await waiting  # "database is locked" where the garbage kept the loop from committing
    await engine.dispose()


async def _one(connection: Any, number: int) -> None:
    await connection.execute(NUMBERS.insert().values(number=number))
    await connection.commit()


async def _failed(connection: Any) -> BaseException:
    with pytest.raises(sa.exc.IntegrityError) as caught:
        await _one(connection, 1)
    error: BaseException = caught.value
    return error
