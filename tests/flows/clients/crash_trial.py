"""An upgrade or a rotation that kills itself: ``python -m tests.flows.clients.crash_trial POINT CLIENT upgrade IMAGE``, or
``… rotate WHICH``. POINT is as in ``crash``.
"""

import asyncio
import sys

from tests.flows.clients.crash import die_at


def main() -> None:
    point, client, what, given = sys.argv[1:5]
    from flows.clients.rotate import rotate_client_secrets
    from flows.clients.upgrade import upgrade_zero

    die_at(point)
    if what == "upgrade":
        state = asyncio.run(upgrade_zero([client], given, return_state=True))
    else:
        state = asyncio.run(rotate_client_secrets(client, given.split(","), return_state=True))
    print("STATE", state.type.value, state.message, flush=True)


if __name__ == "__main__":
    main()
