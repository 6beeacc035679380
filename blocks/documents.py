"""Finding block documents by name."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.client.schemas.objects import BlockDocument
from prefect.client.utilities import get_or_create_client
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.collections import visit_collection
from prefect.utilities.pydantic import handle_secret_render
from pydantic import ValidationError

B = TypeVar("B", bound=Block)
_PAGE = 200
"""The most that Prefect's API gives in one answer."""


class DoesNotFit(Exception):
    """A block that is there does not fit its type: an older version's, or written past the form. Shows names, never values."""

    def __init__(self, name: str, kind: type[Block], refused: ValidationError) -> None:
        fields = sorted({str(error["loc"][0]) for error in refused.errors(include_input=False) if error["loc"]})
        self.what = f"the block {name} does not fit its type {kind.get_block_type_name()}"
        self.what += f" (fields: {', '.join(fields)})" if fields else ""
        self.cure = "open it in the Prefect UI under Blocks, correct it and save it"
        super().__init__(f"{self.what}; {self.cure}.")


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    """The flow's or task's own client of Prefect's API where there is one: to make another and connect it takes 10 ms."""
    client, found = get_or_create_client()
    if found:
        yield client
    else:
        async with client:
            yield client


@contextmanager
def _fitting(kind: type[Block], name: str) -> Iterator[None]:
    try:
        yield
    except (ValidationError, RuntimeError) as error:
        # Prefect's own loading wraps it; the text of either may hold values.
        refused = error if isinstance(error, ValidationError) else error.__cause__
        if not isinstance(refused, ValidationError):
            raise
        raise DoesNotFit(name, kind, refused) from None


async def find(kind: type[B], name: str) -> B | None:
    """The block ``name`` of type ``kind``, or None when there is none; one or two calls to Prefect's API (60-90 ms).

    Raises:
        DoesNotFit: the document does not fit the type.
    """
    with _fitting(kind, name):
        try:
            return await kind.aload(name)
        except ValidationError:
            raise
        except ValueError:  # Prefect's answer to a name it does not know
            return None


async def types_of(name: str) -> list[str]:
    """The types, as the UI calls them, of all blocks called ``name``; one call of Prefect's API."""
    wanted = {"name": {"any_": [name]}}
    async with _client() as client:
        response = await client.request("POST", "/block_documents/filter", json={"block_documents": wanted})
    found = [BlockDocument.model_validate(document) for document in response.json()]
    return sorted(document.block_type.name for document in found if document.block_type)


async def read_documents(names: Mapping[str, str]) -> dict[str, BlockDocument]:
    """Several documents with their secrets in one call of Prefect's API (20-40 ms, where each ``aload`` takes 60-90).

    Args:
        names: name of each block to the slug of its type.

    Returns:
        name to document, of those that there are; ``as_block`` makes the block.
    """
    wanted = {"name": {"any_": sorted(names)}}
    async with _client() as client:
        response = await client.request(
            "POST", "/block_documents/filter", json={"block_documents": wanted, "include_secrets": True}
        )
    found = [BlockDocument.model_validate(document) for document in response.json()]
    return {
        document.name: document
        for document in found
        if document.name and document.block_type and names.get(document.name) == document.block_type.slug
    }


async def of_type(kind: type[Block]) -> list[BlockDocument]:
    """Every document of type ``kind``, by name, with its secrets veiled; one call of Prefect's API for each 200 of them."""
    wanted = {"slug": {"any_": [kind.get_block_type_slug()]}}
    found: list[BlockDocument] = []
    async with _client() as client:
        while True:
            page = {"block_types": wanted, "offset": len(found), "limit": _PAGE}
            response = await client.request("POST", "/block_documents/filter", json=page)
            documents = [BlockDocument.model_validate(document) for document in response.json()]
            found += documents
            if len(documents) < _PAGE:
                return found


def as_block(kind: type[B], document: BlockDocument | None) -> B | None:
    """The block of type ``kind`` that ``document`` holds.

    Raises:
        DoesNotFit: as for ``find``.
    """
    if document is None:
        return None
    with _fitting(kind, document.name or "without a name"):
        return kind._from_block_document(document)


async def delete(kind: type[Block], name: str) -> bool:
    """Delete the block ``name`` of type ``kind``; False: there was none."""
    try:
        await kind.adelete(name)
    except ValueError:  # Prefect's answer to a name it does not know
        return False
    return True


@dataclass(frozen=True)
class Registered:
    """What Prefect calls a registered block type and the schema of it that this version has."""

    type_id: UUID
    schema_id: UUID


async def registered(kind: type[Block]) -> Registered | None:
    """What ``save`` needs to know of ``kind`` (two calls at once, 20 ms); None when it is not registered."""
    async with _client() as client:
        try:
            block_type, schema = await asyncio.gather(
                client.read_block_type_by_slug(kind.get_block_type_slug()),
                client.read_block_schema_by_checksum(kind._calculate_schema_checksum()),
            )
        except ObjectNotFound:
            return None
    return Registered(block_type.id, schema.id)


async def save(block: Block, name: str, kind: Registered | None) -> None:
    """Save a ``block`` that refers to no other one as ``name``, over what is there.

    A new one of a registered ``kind`` takes one call (30 ms), where ``asave`` takes ten.

    Raises:
        PrefectHTTPStatusError: refused; its text may hold the values: do not show it.
    """
    if kind is None:
        await block.asave(name, overwrite=True)
        return
    # Not by the block's own conversion, which reads docstrings for code examples each time (50 ms), nor by its dump, which
    # makes the type's schema anew for each field (10 ms each).
    data = visit_collection(
        {name: getattr(block, name) for name in type(block).model_fields},
        partial(handle_secret_render, context={"include_secrets": True}),
        return_data=True,
    )
    wanted = BlockDocumentCreate(name=name, data=data, block_type_id=kind.type_id, block_schema_id=kind.schema_id)
    async with _client() as client:
        try:
            await client.create_block_document(wanted)
        except ObjectAlreadyExists:
            await block.asave(name, overwrite=True)
