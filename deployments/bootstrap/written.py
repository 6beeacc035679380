"""What bootstrap remembers of the blocks that it wrote, so that a block which nobody edited since follows the settings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists

VARIABLE = "bootstrap_wrote"
"""The Prefect variable; it holds names and times, no values."""


@dataclass(frozen=True)
class Written:
    """One block, as bootstrap left it.

    Args:
        updated: when Prefect says that the block was last changed, in its own words; whoever saves the block moves it.
        fields: what the settings spoke of; where they do so no longer, the field's default returns.
        pending: the block was about to be written; it may have been, when bootstrap was killed.
    """

    updated: str
    fields: tuple[str, ...] = ()
    pending: bool = False


async def read_written(client: PrefectClient) -> dict[str, Written]:
    """What is remembered, by the block's name; nothing when the variable is missing or somebody wrote something else there."""
    variable = await client.read_variable_by_name(VARIABLE)
    try:
        read = json.loads(str(variable.value)) if variable else {}
        return {
            name: Written(str(one["updated"]), tuple(map(str, one["fields"])), bool(one["pending"]))
            for name, one in read.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


async def remember(client: PrefectClient, written: Mapping[str, Written]) -> None:
    """Remember ``written``, and nothing else."""
    text = json.dumps({name: asdict(one) for name, one in written.items()})
    try:
        await client.create_variable(VariableCreate(name=VARIABLE, value=text))
    except ObjectAlreadyExists:
        await client.update_variable(VariableUpdate(name=VARIABLE, value=text))
