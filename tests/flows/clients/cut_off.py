"""Any operation on a client in a process of its own, for a test to kill: ``python -m tests.flows.clients.cut_off OPERATION CLIENT IMAGE``.

It says ``begun`` when its imports are done, so that who kills it can choose a moment inside the flow.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any


def operations(client: str, image: str) -> dict[str, Callable[[], Any]]:
    """What an operator may start, by name; each makes a coroutine."""
    from flows.clients.deprovision import deprovision_client
    from flows.clients.provision import provision_client
    from flows.clients.restart import restart_zero
    from flows.clients.rotate import rotate_client_secrets
    from flows.clients.start import start_zero
    from flows.clients.stop import stop_zero
    from tasks.registry.spec import SpecChanges

    def changed(**changes: Any) -> Callable[[], Any]:
        spec = SpecChanges(image=image, ready_within=60, **changes)
        return lambda: provision_client(client, spec, return_state=True)

    return {
        "provision": changed(),
        "provision smaller": changed(memory=192),
        "provision bigger": changed(memory=256),
        "start": lambda: start_zero([client], return_state=True),
        "stop": lambda: stop_zero([client], return_state=True),
        "restart": lambda: restart_zero([client], return_state=True),
        "rotate": lambda: rotate_client_secrets(client, ["database_password"], return_state=True),
        "deprovision": lambda: deprovision_client(client, client, final_backup=False, return_state=True),
    }


def main() -> None:
    operation, client, image = sys.argv[1:4]
    act = operations(client, image)[operation]
    print("begun", flush=True)
    state = asyncio.run(act())
    print("STATE", state.type.value, state.message, flush=True)


if __name__ == "__main__":
    main()
