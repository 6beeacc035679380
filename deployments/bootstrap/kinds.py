"""Every block type that Zero Fleet uses, and telling Prefect about them."""

import asyncio

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient
from prefect_docker.credentials import DockerRegistryCredentials
from prefect_docker.host import DockerHost
from prefect_email import EmailServerCredentials

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.clients import PostgresServer, TwilioCredentials, ZeroSecrets
from blocks.gmail import GatewayKeys, GmailHandshake, GmailToken, GoogleOAuthClient
from blocks.health import AlertPolicy, WebhookEndpoint

OURS: tuple[type[Block], ...] = (
    PostgresServer,
    ZeroSecrets,
    TwilioCredentials,
    AlertPolicy,
    WebhookEndpoint,
    GoogleOAuthClient,
    GmailToken,
    GmailHandshake,
    GatewayKeys,
    PostgresDatabase,
    BackupPolicy,
)
"""The types that blocks/ defines."""

FOREIGN: tuple[type[Block], ...] = (DockerHost, DockerRegistryCredentials, EmailServerCredentials, Secret)
"""The types of Prefect and its integrations that we load."""


async def register_all(client: PrefectClient) -> int:
    """Make every type known to Prefect, all at once; what is known already costs two short reads a type.

    Returns:
        How many types there are.
    """
    kinds = OURS + FOREIGN
    await asyncio.gather(*(kind.aregister_type_and_schema(client=client) for kind in kinds))
    return len(kinds)
