"""What an operator reads of backups: a page, and the sentences that runs end with. Pure."""

from datetime import datetime

from tasks.backups import message
from tasks.backups.delivery import Delivered
from tasks.backups.manifest import Made
from tasks.backups.source import many, mib
from tasks.errors import Damaged, Refused
from tasks.registry.models import Delivery

ROWS = 50
"""Tables listed on a page."""


def page(made: Made, delivered: Delivered | None, time_zone: str, webhook: str = "") -> str:
    """The backup's page in Markdown.

    Args:
        webhook: what became of telling the webhook; "" when there is none.
    """
    manifest = made.manifest
    lines = [f"# Backup of {made.target.spoken}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | `{_cell(value)}` |" for name, value in message.facts(manifest, str(made.path), time_zone)]
    lines += [f"| Mail | {_cell(mail_told(delivered) if delivered else 'off')} |"]
    lines += [f"| Webhook | {_cell(webhook)} |"] if webhook else []
    lines += ["", "Restore it into a new database:", "", "```"]
    lines += [message.restore_hint(str(made.path), made.target, manifest.server, made.role), "```", ""]
    lines += [message.restore_advice(made.target), ""]
    lines += ["| Table | Rows |", "| --- | ---: |"]
    most = sorted(manifest.rows.items(), key=lambda one: -one[1])
    lines += [f"| `{_cell(name)}` | {count} |" for name, count in most[:ROWS]]
    if len(most) > ROWS:
        lines += [f"| {len(most) - ROWS} more | |"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def backed_up(made: Made, delivered: Delivered | None) -> str:
    """The sentence that a backup's run ends with.

    Raises:
        Refused: the backup is good but its mail or its dated file failed; so the run fails, and says both.
    """
    manifest = made.manifest
    stands = (
        f"{made.target.spoken} is backed up in {made.path} ({mib(manifest.file_bytes)}, "
        f"{many(len(manifest.rows), 'table')}, {many(sum(manifest.rows.values()), 'row')}, {manifest.seconds:.1f} s)"
    )
    if delivered is not None and delivered.state == Delivery.FAILED:
        what, cure = not_delivered(delivered)
        if made.undated:
            what, cure = f"{what}; and {made.undated.what}", f"{cure}; {made.undated.cure}"
        raise Refused(f"the backup is good: {stands}; but {what}", cure)
    if made.undated:
        mailed = f"; {delivered.sentence}" if delivered else ""
        raise Refused(f"the backup is good: {stands}{mailed}; but {made.undated.what}", made.undated.cure)
    if delivered is None:
        return f"{stands}; mailing is off."
    return f"{stands}; {delivered.sentence}."


def not_delivered(delivered: Delivered) -> tuple[str, str]:
    """Of a delivery that failed: what failed, and what to do or to wait for.

    >>> from tasks.errors import Unreachable
    >>> lost = Refused("mx refused it", "mend that")
    >>> not_delivered(Delivered(Delivery.FAILED, [], f"it was not delivered: {lost}", lost))
    ('it was not delivered: mx refused it', 'mend that; then run resend-backup, which mails it')
    """
    cure = delivered.error.cure if delivered.error else "see the log"
    what = delivered.sentence.removesuffix(f"; {cure}.")
    if delivered.next_try is not None:
        return what, f"it is tried again by itself at {_moment(delivered.next_try)}; should that fail too, {cure}"
    return what, f"{cure}; then run resend-backup, which mails it"


def mail_told(delivered: Delivered) -> str:
    """What is shown of a delivery: what came of it, how often it was tried, when it is tried again."""
    words = delivered.sentence
    if delivered.state == Delivery.FAILED:
        words = f"{words.rstrip('.')}. Tried in {many(delivered.attempts, 'run')}"
        words += f", again by itself at {_moment(delivered.next_try)}" if delivered.next_try else ""
    return words


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def resent(came: list[tuple[str, Delivered | None, str]]) -> str:
    """The sentence that a run of resend-backup ends with.

    Args:
        came: target in words, what became of its mail, or why none was tried.

    Raises:
        Refused: one or more were not delivered; each is named.

    >>> resent([("client acme", Delivered(Delivery.SENT, ["a@b.c"], "mailed to a@b.c"), ""), ("crm", None, "tried again at 3")])
    'client acme: mailed to a@b.c; crm: tried again at 3.'
    >>> lost = Refused("mx refused it", "mend that")
    >>> resent([("client acme", Delivered(Delivery.FAILED, [], f"it was not delivered: {lost}", lost), "")])
    Traceback (most recent call last):
    tasks.errors.Refused: client acme: it was not delivered: mx refused it; mend that; then run resend-backup, which mails it.
    """
    if not came:
        return "every latest backup was delivered, so there was nothing to mail."
    bad = [(name, not_delivered(mail)) for name, mail, _ in came if mail and mail.state == Delivery.FAILED]
    good = [
        f"{name}: {mail.sentence if mail else note}"
        for name, mail, note in came
        if not mail or mail.state != Delivery.FAILED
    ]
    if not bad:
        return f"{'; '.join(good)}."
    whats = [f"{name}: {what}" for name, (what, _) in bad]
    cures = list(dict.fromkeys(cure for _, (_, cure) in bad))
    raise Refused("; ".join([*whats, *good]), " / ".join(cures))


def verified(verdicts: list[tuple[str, bool, str]]) -> str:
    """The sentence that a verification's run ends with.

    Args:
        verdicts: target in words, whether its backup is good, what was found.

    Raises:
        Damaged: one or more are not good; each is named.

    >>> verified([("client acme", True, "3 tables with 9 rows restored and compared equal in 0.2 s")])
    'client acme: 3 tables with 9 rows restored and compared equal in 0.2 s.'
    >>> verified([("client a", True, "x"), ("client b", False, "b is cut; make a new one."), ("c", False, "no room; free some.")])
    Traceback (most recent call last):
    tasks.errors.Damaged: 2 of 3 backups could not be verified (1 is good): client b: b is cut / c: no room; for client b: make a new one / for c: free some.
    >>> verified([])
    'there is no good backup yet, so there was nothing to verify.'
    """
    if not verdicts:
        return "there is no good backup yet, so there was nothing to verify."
    bad = [(name, *found.rstrip(". ").rpartition("; ")[::2]) for name, good, found in verdicts if not good]
    if bad:
        found = " / ".join(f"{name}: {what}" for name, what, _ in bad)
        if len(verdicts) == 1:
            raise Damaged(found, bad[0][2])
        good = len(verdicts) - len(bad)
        raise Damaged(
            f"{len(bad)} of {len(verdicts)} backups could not be verified "
            f"({good} {'is' if good == 1 else 'are'} good): {found}",
            " / ".join(f"for {name}: {cure}" for name, _, cure in bad),
        )
    if len(verdicts) == 1:
        return f"{verdicts[0][0]}: {verdicts[0][2]}."
    named = ", ".join(f"{name} ({found})" for name, _, found in verdicts[:5])
    more = f", and {len(verdicts) - 5} more" if len(verdicts) > 5 else ""
    return f"{len(verdicts)} backups restored and compared equal: {named}{more}."
