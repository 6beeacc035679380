"""deprovision-client: a client's container, database, secrets and port, taken away after a proven final backup."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.steps.deliver import deliver_backup
from tasks.backups.steps.dump import dump_database, publish_backup
from tasks.backups.steps.verify import targets_to_verify, verify_targets
from tasks.clients.deprovision import require_confirmed, require_proven
from tasks.clients.steps.deprovision import drop_database, forget, remove_container, take_stock
from tasks.clients.steps.operation import operation

Slug = Annotated[str, Field(min_length=1, max_length=40)]


@flow(name="deprovision-client", flow_run_name="deprovision {client}", persist_result=False, result_storage=NOWHERE)
@told
async def deprovision_client(client: Slug, confirm: Slug, final_backup: bool = True) -> str:
    """Take a client away: a final backup that a trial restore proves, then its container, database, role, secrets and port.

    When the backup fails nothing is touched. Run it again after it was cut off: it goes on where it was. Backups stay, the final one
    too; what Zero writes after it was begun is not in it (run stop-zero first where that matters).

    Args:
        client: Slug of the client.
        confirm: The same slug again. There is no way back but a restore.
        final_backup: false: no backup is made before everything goes.
    """
    require_confirmed(client, confirm)
    async with operation(client, "deprovision"):
        stock = await take_stock(client, final_backup)
        if stock.gone:
            return stock.gone
        proven = stock.proven
        if stock.back_up:
            made = await dump_database(client, None)
            verdicts = await verify_targets(await targets_to_verify(client, None))
            proven = require_proven(client, str(made.path), [(one.good, one.sentence) for one in verdicts])
            delivered = await deliver_backup(made)
            await publish_backup(made, delivered)
            proven += f"; {delivered.sentence}" if delivered else ""
        await remove_container(client, proven, stock.words)
        await drop_database(client)
        return await forget(client)
