"""Blocks of the health trade: when to speak, and where to."""

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

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


class WebhookEndpoint(Block):
    """An address that events are posted to, signed."""

    _block_type_name = "Zero Fleet Webhook Endpoint"
    _block_type_slug = "zero-fleet-webhook-endpoint"
    _description = "An address that events will be posted to, signed with the key. Nothing posts yet."
    _logo_url = HttpUrl("https://cdn.simpleicons.org/webhooks")
    _documentation_url = DOCS

    url: SecretStr = Field(title="URL", description="May hold a token; kept secret therefore.")
    signing_key: SecretStr = Field(title="Signing key", description="HMAC-SHA256 over the body.")
