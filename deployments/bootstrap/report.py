"""What a bootstrap did, for a person at a terminal. It holds no secret."""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.bootstrap.difference import WRITTEN, BlockDifference, Outcome


@dataclass(frozen=True)
class Report:
    """What was done, or with ``dry_run`` would be."""

    block_types: int
    blocks: tuple[BlockDifference, ...]
    registry: str
    notes: tuple[str, ...]
    dry_run: bool
    seconds: float

    @property
    def kept(self) -> tuple[BlockDifference, ...]:
        """Blocks that differ from the settings and were left as they are."""
        return tuple(block for block in self.blocks if block.outcome is Outcome.KEPT)

    @property
    def changed(self) -> bool:
        """Whether any block was (or would be) written."""
        return any(block.outcome in WRITTEN for block in self.blocks)

    def lines(self) -> list[str]:
        """The report as plain text; a table of the blocks, then what else is worth knowing."""
        rows = [("block", "what", "differences")]
        for block in self.blocks:
            first, *more = [str(field) for field in block.fields] or [""]
            rows.append((block.name, self._word(block.outcome), first))
            rows += [("", "", field) for field in more]
        lines = _table(rows)
        if self.kept:
            names = ", ".join(block.name for block in self.kept)
            lines.append(
                f"Kept as edited in Prefect: {names}. To put the settings there: `make up OVERWRITE=1` "
                "(or `python -m deployments.bootstrap --overwrite`)."
            )
        lines += [f"Note: {note}" for note in self.notes]
        done = "Dry run, nothing was changed: " if self.dry_run else ""
        lines.append(f"{done}{self.block_types} block types, registry {self.registry}, {self.seconds:.1f} s.")
        return lines

    def _word(self, outcome: Outcome) -> str:
        return f"would be {outcome.value}" if self.dry_run and outcome in WRITTEN else outcome.value


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in [*widths, len(rows[0][-1])]))
    return lines
