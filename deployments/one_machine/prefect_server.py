"""Prefect's server on SQLite: ``python -m deployments.one_machine.prefect_server PORT``.

What ``prefect server start`` does in the foreground, with one transaction begun as a writer: a worker's heartbeat reads
first and writes then, and SQLite refuses that at once when anybody wrote in between ("database is locked", an ERROR in
the log and a lost heartbeat; about one in a hundred here with two workers). Prefect itself mends such places by
``BEGIN IMMEDIATE`` one by one (PrefectHQ/prefect#22967).
"""

import sys
from typing import Any

import prefect.server.utilities.worker_channel as worker_channel
import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database.configurations import SQLITE_BEGIN_MODE

_persist = worker_channel._persist_worker_channel_heartbeat


async def _persist_as_writer(*args: Any, **kwargs: Any) -> Any:
    """Prefect's own, in a transaction that waits for the write lock first; BEGIN is sent with the first statement."""
    token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
    try:
        return await _persist(*args, **kwargs)
    finally:
        SQLITE_BEGIN_MODE.reset(token)


def main() -> None:
    """Serve on 127.0.0.1 until TERM."""
    worker_channel._persist_worker_channel_heartbeat = _persist_as_writer
    uvicorn.run(
        create_app(final=True),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        timeout_keep_alive=5,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
