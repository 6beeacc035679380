"""What bootstrap would do to each block, against what is there. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from prefect.blocks.core import Block
from pydantic import ValidationError

from deployments.bootstrap.plan import Wanted
from tasks.errors import Damaged


class Outcome(StrEnum):
    """What becomes of a block."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    KEPT = "differs, kept"
    UPDATED = "updated"
    OVERWRITTEN = "overwritten"


WRITTEN = (Outcome.CREATED, Outcome.UPDATED, Outcome.OVERWRITTEN)
"""The outcomes of blocks that are saved."""


@dataclass(frozen=True)
class FieldDifference:
    """A field that is not what the settings say; values are shown, secrets never."""

    field: str
    there: str
    wanted: str

    def __str__(self) -> str:
        if self.there == self.wanted:
            return f"{self.field}: {self.there}"
        return f"{self.field}: {self.there} in Prefect, {self.wanted} in the settings"


SECRET_DIFFERS = "(secret differs)"  # noqa: S105  no secret, but what is shown for one


@dataclass(frozen=True)
class BlockDifference:
    """One block: what becomes of it and why."""

    name: str
    kind: str
    outcome: Outcome
    fields: tuple[FieldDifference, ...] = ()


def compare(
    wanted: Wanted, existing: Mapping[str, Any] | None, *, overwrite: bool, ours: Iterable[str] | None = None
) -> BlockDifference:
    """What becomes of the block ``wanted``.

    Args:
        wanted: the block that the settings call for.
        existing: the data of the block that is there, with its secrets; None when there is none.
        overwrite: whether what differs is overwritten even where somebody edited it; otherwise that is kept.
        ours: of a block that is still as bootstrap left it, the fields that the settings spoke of then: it is updated.
            None for one that was edited since, or that bootstrap did not write.

    Raises:
        Damaged: the block that is there does not fit its type any more.
    """
    kind = wanted.kind.get_block_type_name()
    if existing is None:
        return BlockDifference(wanted.name, kind, Outcome.CREATED)
    present, future = _fit(wanted, existing), merged(wanted, existing, ours or ())
    before, after = data_of(present), data_of(future)
    secret = secret_fields(wanted.kind)
    fields = tuple(
        FieldDifference(name, SECRET_DIFFERS, SECRET_DIFFERS)
        if name in secret
        else FieldDifference(name, _shown(present, name), _shown(future, name))
        for name in (*wanted.values, *_dropped(wanted, ours or ()))
        if before[name] != after[name]
    )
    changed = Outcome.OVERWRITTEN if overwrite else Outcome.KEPT
    if ours is not None:
        changed = Outcome.UPDATED
    return BlockDifference(wanted.name, kind, changed if fields else Outcome.UNCHANGED, fields)


def merged(wanted: Wanted, existing: Mapping[str, Any] | None, ours: Iterable[str] = ()) -> Block:
    """The block as it is after it was written: what the settings do not speak of stays as it is.

    Except for the fields ``ours``, which the settings spoke of before: they go back to their defaults. A client of
    Google's that follows the demo's must not be sent to the stand-in's addresses.
    """
    dropped = _dropped(wanted, ours)
    stays = {name: value for name, value in (existing or {}).items() if name not in dropped}
    return _fit(wanted, {**stays, **wanted.values})


def _dropped(wanted: Wanted, ours: Iterable[str]) -> list[str]:
    fields = wanted.kind.model_fields
    return [name for name in ours if name in fields and name not in wanted.values and not fields[name].is_required()]


def _fit(wanted: Wanted, data: Mapping[str, Any]) -> Block:
    try:
        return wanted.kind(**data)
    except ValidationError as failed:
        fields = ", ".join(sorted({str(error["loc"][0]) for error in failed.errors() if error["loc"]}))
    raise Damaged(
        f"the block {wanted.name} does not fit its type (fields: {fields or 'none named'})",
        "delete it in the Prefect UI under Blocks and run again",
    )


def _shown(block: Block, name: str) -> str:
    """A field that is no secret, as a person writes it (STARTTLS, not 587)."""
    value = getattr(block, name)
    return value.name if isinstance(value, Enum) else repr(value)


def secret_fields(kind: type[Block]) -> frozenset[str]:
    """The names of the fields of ``kind`` that Prefect keeps secret."""
    return frozenset(str(name).partition(".")[0] for name in kind.model_json_schema().get("secret_fields", ()))


def data_of(block: Block) -> dict[str, Any]:
    """The block's fields as JSON values, secrets included: compare them, do not show them."""
    return block.model_dump(mode="json", include=set(type(block).model_fields), context={"include_secrets": True})
