"""Prefect's engine, and an end for a run that it leaves without one: ``python -m deployments.one_machine.flow_engine``.

A run that is cancelled after its worker took it and before it runs is refused by the server, and Prefect's engine ends with an
exception; nobody sets its state any more, and it would be Cancelling for ever (Prefect 3.8, seen).
"""

import os
import platform
import runpy
import sys
import threading
import time
import traceback
from uuid import UUID

ENGINE = "prefect.engine"


def main() -> None:
    """Run the engine and end as it does, or with the parent where the system does not see to that."""
    if platform.system() != "Linux":
        threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    sys.exit(run())


def end_with_parent(parent: int) -> None:
    """Wait until the process ``parent`` is not our parent any more, then end at once: the run's worker is dead."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def run() -> int:
    """Run the engine; the exit code that it ends with."""
    sys.modules.pop(ENGINE, None)  # where it was imported for other things, it would warn
    code: object = 1
    try:
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    number = code if isinstance(code, int) else int(code is not None)
    if number:
        settle(os.environ.get("PREFECT__FLOW_RUN_ID", ""))
    return number


def settle(run: str) -> bool:
    """Mark ``run`` as cancelled if it is Cancelling; whether it was. Called when its process ends, by that process."""
    try:
        number = UUID(run)
    except ValueError:
        return False
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(number).state
            if state is None or not state.is_cancelling():
                return False
            client.set_flow_run_state(number, Cancelled(message="cancelled before it began"), force=True)
    except Exception:  # the engine's own end says what is wrong; this must not hide it
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    main()
