"""A run of provision-client that kills itself: ``python -m tests.flows.clients.crash POINT CLIENT IMAGE``.

POINT is ``module.function`` under tasks.clients (``backups/module.function``: under tasks.backups); the process dies by SIGKILL right after the first call of it returned (before
it, with a leading ``-``), so nothing of it can tidy up. ``none``: it runs to its end.
"""

import asyncio
import importlib
import os
import signal
import sys


def die_at(point: str) -> None:
    """Patch the function."""
    before = point.startswith("-")
    trade, _, rest = point.lstrip("-").rpartition("/")
    module_name, _, name = rest.rpartition(".")
    module = importlib.import_module(f"tasks.{trade or 'clients'}.{module_name}")
    function = getattr(module, name)

    if asyncio.iscoroutinefunction(function):

        async def wrapped(*arguments, **named):  # type: ignore[no-untyped-def]
            if not before:
                await function(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)

    else:

        def wrapped(*arguments, **named):  # type: ignore[no-untyped-def]
            if not before:
                function(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, wrapped)


def main() -> None:
    point, client, image = sys.argv[1:4]
    from flows.clients.provision import provision_client
    from tasks.registry.spec import SpecChanges

    if point != "none":
        die_at(point)
    spec = SpecChanges(image=image, memory=256, ready_within=30)
    state = asyncio.run(provision_client(client, spec, return_state=True))
    print("STATE", state.type.value, state.message, flush=True)


if __name__ == "__main__":
    main()
