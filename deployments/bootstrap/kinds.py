"""Every block type that Zero Fleet uses, and telling Prefect about them."""

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient
from prefect_docker.credentials import DockerRegistryCredentials
from prefect_docker.host import DockerHost
from prefect_email import EmailServerCredentials

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.clients import PostgresServer, TwilioCredentials, ZeroSecrets
from blocks.gmail import GatewayKeys, GmailHandshake, GmailToken, GoogleOAuthClient
from blocks.health import AlertPolicy
from blocks.webhook import WebhookEndpoint

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

ALL = OURS + FOREIGN


async def register_all(client: PrefectClient) -> int:
    """Make every type known to Prefect; what is known already costs two short reads a type.

    One after the other on purpose: a Prefect server on SQLite took 0.7 s for all of them so, and 7 s at once, because its
    writers wait for each other's lock in growing steps.

    Returns:
        How many types there are.
    """
    for kind in ALL:
        await kind.aregister_type_and_schema(client=client)
    return len(ALL)
