"""A run of deprovision-client or adopt-zero that kills itself: ``python -m tests.flows.clients.crash_leaving POINT VERB NAME PG_BIN``.

POINT as in ``crash``; NAME is the client's slug, or the container's name. PG_BIN is where pg_dump is.
"""

import asyncio
import sys
from pathlib import Path

from tests.flows.clients.crash import die_at


def main() -> None:
    point, verb, name, programs = sys.argv[1:5]
    from blocks.installation import installation

    installation().pg_bin = Path(programs)
    die_at(point)
    if verb == "adopt":
        from flows.clients.adopt import adopt_zero

        state = asyncio.run(adopt_zero(name, return_state=True))
    else:
        from flows.clients.deprovision import deprovision_client

        state = asyncio.run(deprovision_client(name, name, verb == "deprovision", return_state=True))
    print("STATE", state.type.value, state.message, flush=True)


if __name__ == "__main__":
    main()
