"""The block of an address that events are posted to."""

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr


class WebhookEndpoint(Block):
    """An address that events are posted to, signed as the Standard Webhooks specification says."""

    _block_type_name = "Zero Fleet Webhook Endpoint"
    _block_type_slug = "zero-fleet-webhook-endpoint"
    _description = (
        "An address that events are posted to, signed with the key by the Standard Webhooks specification. Finished backups "
        "are, when the block `backup-policy` names this one in its field Webhook."
    )
    _logo_url = HttpUrl("https://cdn.simpleicons.org/webhooks")
    _documentation_url = HttpUrl("https://www.standardwebhooks.com/")

    url: SecretStr = Field(
        title="URL",
        description="Where to: https, or http on this machine's own loopback. It may hold a token, so it is kept secret and "
        "only its host is ever shown.",
    )
    signing_key: SecretStr = Field(
        title="Signing key",
        description="whsec_ and 24 to 64 bytes in base64 (`echo whsec_$(openssl rand -base64 32)`), or a text of 24 to 200 "
        "visible ASCII characters, which is taken as it stands.",
    )
