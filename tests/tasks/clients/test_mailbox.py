"""The e-mail API: what each refusal of it means."""

import httpx
import pytest
import respx

from tasks.clients.mailbox import SHOWN, Mailbox
from tasks.errors import FleetError, NotFound, Refused, Unreachable

BOX = Mailbox("acme", "http://127.0.0.1:20999", "the-token", "zero-acme")
SEND = f"{BOX.base}/api/emails/send"
LIST = f"{BOX.base}/api/emails"


async def failed(answer: object) -> FleetError:
    """What sending says when the API answers so."""
    with respx.mock:
        route = respx.post(SEND)
        if isinstance(answer, httpx.Response):
            route.return_value = answer
        else:
            route.side_effect = answer
        with pytest.raises(FleetError) as raised:
            await BOX.send("ada@example.org", "Hi", "text")
    assert "the-token" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (httpx.Response(401), Refused, "does not take the token in the block zero-acme"),
        (httpx.Response(404, text="<html>"), NotFound, "has no e-mail API"),
        (httpx.Response(307, headers={"location": "/login"}), NotFound, "speaks tRPC"),
        (httpx.Response(400, json={"error": "to\nis the-token"}), Refused, "refused it (400): to is ***"),
        (httpx.Response(429), Unreachable, "asks to wait"),
        (httpx.Response(500, json={"error": {"odd": 1}}), Unreachable, "failed at /api/emails/send (500);"),
        (httpx.Response(200, json={"success": False, "error": "no account"}), Refused, "did not send it: no account"),
        (httpx.ConnectError("x"), Unreachable, "connection refused"),
        (httpx.ReadTimeout("x"), Unreachable, "it is not known whether the mail left"),
        (httpx.RemoteProtocolError("x"), Unreachable, "no proper answer"),
    ],
    ids=lambda value: str(value.status_code) if isinstance(value, httpx.Response) else None,
)
async def test_each_refusal_has_its_sentence(answer, kind, words):
    error = await failed(answer)
    assert isinstance(error, kind) and words in str(error)


@respx.mock
async def test_a_mail_that_was_taken_gives_its_id_and_carries_the_token():
    route = respx.post(SEND).respond(200, json={"success": True, "id": 7})
    assert await BOX.send("ada@example.org", "Hi", "text") == "7"
    assert route.calls.last.request.headers["authorization"] == "Bearer the-token"
    respx.post(SEND).respond(202, text="queued")
    assert await BOX.send("ada@example.org", "Hi", "text") == ""


@respx.mock
async def test_a_secret_of_the_client_that_a_mail_quotes_is_taken_out_before_it_is_cut():
    password = "a-password-of-32-characters-0123"
    box = Mailbox("acme", BOX.base, "the-token", "zero-acme", ("the-token", password))
    row = {"id": 1, "subject": password, "body": "x" * (SHOWN - 10) + password}
    respx.get(LIST).respond(200, json=[row])
    (mail,) = await box.latest(1)
    assert mail.subject == "***"
    assert "a-pass" not in mail.text
    respx.post(SEND).respond(400, json={"error": "y" * 140 + password})
    with pytest.raises(Refused) as raised:
        await box.send("ada@example.org", "Hi", "text")
    assert "a-pass" not in str(raised.value)


@respx.mock
async def test_a_list_is_cut_in_number_and_in_length_whatever_its_shape():
    row = {"id": 1, "to": ["a@b.example", "c@d.example"], "subject": "s\n\nt", "body": "x" * 5000}
    respx.get(LIST).respond(200, json={"emails": [row, row, "odd", row]})
    mails = await BOX.latest(3)
    assert len(mails) == 2 and mails[0].to == "a@b.example, c@d.example" and mails[0].subject == "s t"
    assert len(mails[0].text) < 130
    respx.get(LIST).respond(200, json=[row])
    assert len(await BOX.latest(3)) == 1
    for odd in ({"json": {"emails": 3}}, {"text": "<html>"}):
        respx.get(LIST).respond(200, **odd)
        with pytest.raises(Refused, match="no list of mails"):
            await BOX.latest(3)
