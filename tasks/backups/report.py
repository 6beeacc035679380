"""What an operator reads of backups: a page, and the sentences that runs end with. Pure."""

from tasks.backups import message
from tasks.backups.delivery import Delivered
from tasks.backups.manifest import Made
from tasks.backups.source import many, mib
from tasks.errors import Damaged, Refused
from tasks.registry.models import Delivery

ROWS = 50
"""Tables listed on a page."""


def page(made: Made, delivered: Delivered | None, time_zone: str) -> str:
    """The backup's page in Markdown."""
    manifest = made.manifest
    lines = [f"# Backup of {made.target.spoken}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | `{_cell(value)}` |" for name, value in message.facts(manifest, str(made.path), time_zone)]
    lines += [f"| Mail | {_cell(delivered.sentence if delivered else 'off')} |"]
    lines += ["", "Restore it into a new database:", "", "```"]
    lines += [message.restore_hint(str(made.path), manifest.server, made.role), "```", ""]
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
        Refused: the backup is good but its mail failed; so the run fails, and says both.
    """
    manifest = made.manifest
    stands = (
        f"{made.target.spoken} is backed up in {made.path} ({mib(manifest.file_bytes)}, "
        f"{many(len(manifest.rows), 'table')}, {many(sum(manifest.rows.values()), 'row')}, {manifest.seconds:.1f} s)"
    )
    if delivered is None:
        return f"{stands}; mailing is off."
    if delivered.state == Delivery.FAILED:
        cure = delivered.error.cure if delivered.error else "see the log"
        what = delivered.sentence.removesuffix(f"; {cure}.")
        raise Refused(f"the backup is good: {stands}; but {what}", cure)
    return f"{stands}; {delivered.sentence}."


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
