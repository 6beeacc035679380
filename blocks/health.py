"""The block of the health trade: when to speak."""

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl

DOCS = HttpUrl("https://docs.prefect.io/v3/concepts/events")


class AlertPolicy(Block):
    """How many failures in a row make an alert, and how many successes end it."""

    _block_type_name = "Zero Fleet Alert Policy"
    _block_type_slug = "zero-fleet-alert-policy"
    _description = "How many failed probes in a row change a client's status, and how many good ones change it back. Saved as `alert-policy`."
    _logo_url = HttpUrl("https://cdn.simpleicons.org/prometheus")
    _documentation_url = DOCS

    failures: int = Field(
        default=3,
        ge=1,
        le=100,
        title="Failures to alert",
        description="So many failed probes in a row make a client unhealthy.",
    )
    successes: int = Field(
        default=2,
        ge=1,
        le=100,
        title="Successes to resolve",
        description="So many good probes in a row make it healthy again.",
    )
    recipients: list[str] = Field(
        default_factory=list, title="Recipients", description="Who will be mailed. Nothing mails alerts yet."
    )
