"""Back every database up, every night."""

from prefect import flow

from flows.outcome import NOWHERE, told
from tasks.backups.fleet import to_prune
from tasks.backups.pruning import sentence
from tasks.backups.report import resent
from tasks.backups.steps.fleet import (
    Apart,
    back_up_all,
    mail_summary,
    plan_night,
    raise_alarm,
    show_summary,
    sum_up,
)
from tasks.backups.steps.prune import prune_targets
from tasks.backups.steps.resend import resend_earlier
from tasks.backups.summary import closing, nothing_to_do


@flow(name="backup-fleet", flow_run_name="backup fleet", persist_result=False, result_storage=NOWHERE)
@told
async def backup_fleet() -> str:
    """Back up every client's database and every PostgreSQL database block, a few at once, and mail one summary of it all.

    A backup that fails hinders no other one. Afterwards old dated files are pruned, and mails that earlier nights could not
    deliver are sent. The table is the artifact `backups`. The run ends Failed when a database was not backed up or its backup
    not delivered, when one is too old, unproven for too long or much smaller than before, or when the disk is running full.
    """
    plan = await plan_night()
    if not plan.targets:
        return nothing_to_do(plan.left_out)
    nights, seconds = await back_up_all(plan)

    after = Apart()
    with after.so("pruning"):
        after.notes.append(sentence(await prune_targets(to_prune(nights))))
    with after.so("mails of earlier nights"):
        earlier = await resend_earlier()
        after.notes += [resent([(one.target.spoken, one.delivered, one.note) for one in earlier])] if earlier else []
    night = await sum_up(plan, nights, seconds, after)

    telling = Apart()
    with telling.so("the table was not written"):
        await show_summary(night)
    with telling.so("the alerts were not told"):
        await raise_alarm(night)
    mailed = ""
    with telling.so("the summary mail was NOT sent"):
        mailed = await mail_summary(night)
    return closing(night, telling.troubles, mailed)
