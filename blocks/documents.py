"""Finding block documents by name."""

from typing import TypeVar

from prefect.blocks.core import Block
from pydantic import ValidationError

B = TypeVar("B", bound=Block)


async def find(kind: type[B], name: str) -> B | None:
    """The block ``name`` of type ``kind``, or None when there is none; one or two calls to Prefect's API (60-90 ms).

    Raises:
        ValidationError: the document does not fit the type (an older version's); its text may hold values: do not show it.
    """
    try:
        return await kind.aload(name)
    except ValidationError:
        raise
    except ValueError:  # Prefect's answer to a name it does not know
        return None
