"""Try the SMTP settings."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.message import address
from tasks.backups.steps.check_mail import try_mail


@flow(
    name="send-test-email",
    flow_run_name="send test e-mail to {recipient}",
    persist_result=False,
    result_storage=NOWHERE,
)
@told
async def send_test_email(recipient: Annotated[str, Field(min_length=3, max_length=254)]) -> str:
    """Send a test mail through the block `smtp`, step by step: resolve, connect, TLS, login, sender, recipient, message.

    Says which step failed and what to do; a mail arrives only when all of them worked.

    Args:
        recipient: Who gets the test mail, like ops@example.org.
    """
    return await try_mail(address(recipient, "recipient").addr_spec)
