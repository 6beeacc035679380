"""Blocks of the Gmail trade: OAuth clients, a user's grant, the handshake of one login, keys of the gateway."""

from datetime import datetime

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from pydantic import Field, HttpUrl, SecretStr

GOOGLE_DOCS = HttpUrl("https://developers.google.com/identity/protocols/oauth2/web-server")


class GoogleOAuthClient(Block):
    """An OAuth web client of a Google Cloud project, and where Google's endpoints are."""

    _block_type_name = "Zero Fleet Google OAuth Client"
    _block_type_slug = "zero-fleet-google-oauth-client"
    _description = (
        "OAuth web client from Google Cloud. `google-zero` is for the Zero instances, `google-gmail` for users' profiles: "
        "two clients, because their redirects and scopes differ."
    )
    _logo_url = HttpUrl("https://cdn.simpleicons.org/google")
    _documentation_url = GOOGLE_DOCS

    client_id: str = Field(title="Client ID", description="Ends in .apps.googleusercontent.com.")
    client_secret: SecretStr = Field(title="Client secret", description="From Google Cloud's page Credentials.")
    scopes: list[str] = Field(
        default_factory=lambda: ["openid", "email", "profile"],
        title="Scopes asked for",
        description=(
            "`openid email profile` gives names, e-mail and picture without a review by Google; add "
            "https://www.googleapis.com/auth/gmail.readonly (restricted) for counts and language. Only for google-gmail."
        ),
    )
    auth_uri: str = Field(
        default="https://accounts.google.com/o/oauth2/v2/auth",
        title="Authorization endpoint",
        description="Where users consent; leave it, but for tests.",
    )
    token_uri: str = Field(
        default="https://oauth2.googleapis.com/token",
        title="Token endpoint",
        description="Where codes and tokens are exchanged; leave it, but for tests.",
    )
    revoke_uri: str = Field(
        default="https://oauth2.googleapis.com/revoke",
        title="Revocation endpoint",
        description="Where grants are given back; leave it, but for tests.",
    )
    userinfo_uri: str = Field(
        default="https://openidconnect.googleapis.com/v1/userinfo",
        title="Userinfo endpoint",
        description="Where names and picture come from; leave it, but for tests.",
    )
    gmail_api: str = Field(
        default="https://gmail.googleapis.com",
        title="Gmail API",
        description="Where counts and language come from; leave it, but for tests.",
    )


class GmailToken(Block):
    """What a user granted; saved as `gmail-ID`."""

    _block_type_name = "Zero Fleet Gmail Token"
    _block_type_slug = "zero-fleet-gmail-token"
    _description = "Tokens of one connected Gmail account. Written by connect-gmail and kept fresh; not for editing."
    _logo_url = HttpUrl("https://cdn.simpleicons.org/gmail")
    _documentation_url = GOOGLE_DOCS

    user: str = Field(title="User", description="The site's opaque key of the user.")
    access_token: SecretStr = Field(
        default=SecretStr(""), title="Access token", description="Short-lived; renewed by itself."
    )
    refresh_token: SecretStr = Field(
        default=SecretStr(""), title="Refresh token", description="What the access token is renewed with."
    )
    expires_at: datetime | None = Field(
        default=None, title="Access token expires at", description="Renewed before this moment."
    )
    scopes: list[str] = Field(default_factory=list, title="Granted scopes", description="What the user ticked.")
    generation: int = Field(default=0, title="Generation", description="Counts grants.")


class GmailHandshake(Block):
    """One login under way, for minutes: the flow saves its half as `gmail-handshake-ID`, the gateway Google's answer as
    `gmail-handshake-<id>-answer`. Prefect's API lets only one document have a name, so only one callback can win.
    """

    _block_type_name = "Zero Fleet Gmail Handshake"
    _block_type_slug = "zero-fleet-gmail-handshake"
    _description = (
        "State, PKCE verifier and code of one login under way. Written by connect-gmail and the gateway, then swept."
    )
    _logo_url = HttpUrl("https://cdn.simpleicons.org/gmail")
    _documentation_url = GOOGLE_DOCS

    user: str = Field(title="User", description="The site's opaque key of the user.")
    state: SecretStr = Field(default=SecretStr(""), title="State", description="Ties Google's answer to this login.")
    code_verifier: SecretStr = Field(
        default=SecretStr(""), title="PKCE verifier", description="Proves that the code is ours."
    )
    expires_at: datetime = Field(title="Expires at", description="The login counts until then.")
    code: SecretStr = Field(default=SecretStr(""), title="Authorization code", description="Exchanged once for tokens.")
    error: str = Field(default="", title="Error that Google sent instead of a code", description="Like access_denied.")

    @staticmethod
    def block_name(ident: str) -> str:
        """The flow's half of handshake ``ident``."""
        return f"gmail-handshake-{ident}"

    @staticmethod
    def answer_name(ident: str) -> str:
        """The gateway's half of handshake ``ident``."""
        return f"gmail-handshake-{ident}-answer"

    async def save_first(self, name: str) -> bool:
        """Save as ``name`` if nothing has that name yet; False when somebody was faster. Atomic in Prefect's database."""
        try:
            await self.asave(name)
        except ValueError as error:
            if isinstance(error.__cause__, ObjectAlreadyExists):
                return False
            raise
        return True

    @classmethod
    async def is_saved(cls, name: str) -> bool:
        """Whether the document ``name`` exists; one request that brings no secret along and emits no event."""
        async with get_client() as client:
            try:
                await client.read_block_document_by_name(name, cls.get_block_type_slug(), include_secrets=False)
            except ObjectNotFound:
                return False
            return True

    @classmethod
    async def sweep(cls, moment: datetime, ident: str = "") -> int:
        """Delete both halves of handshake ``ident``, and those of every handshake that ended before ``moment``.

        Returns:
            How many documents were deleted.
        """
        gone = 0
        mine = {cls.block_name(ident), cls.answer_name(ident)} if ident else set()
        async with get_client() as client:
            try:
                documents = await client.read_block_documents_by_type(cls.get_block_type_slug(), include_secrets=False)
            except PrefectHTTPStatusError as error:
                if error.response.status_code == 404:  # the type is not registered: no login was ever begun
                    return 0
                raise
            for document in documents:
                ends = datetime.fromisoformat(str(document.data["expires_at"]).replace("Z", "+00:00"))
                if document.name in mine or ends < moment:
                    try:
                        await client.delete_block_document(document.id)
                    except ObjectNotFound:  # another run swept it
                        continue
                    gone += 1
        return gone


class GatewayKeys(Block):
    """Keys by which other programs call the gateway."""

    _block_type_name = "Zero Fleet Gateway Keys"
    _block_type_slug = "zero-fleet-gateway-keys"
    _description = "Keys by which other programs will call the gateway. Nothing reads it yet."
    _logo_url = HttpUrl("https://cdn.simpleicons.org/keycdn")
    _documentation_url = GOOGLE_DOCS

    keys: dict[str, SecretStr] = Field(
        default_factory=dict, title="Keys", description="Name of the program to its key."
    )
