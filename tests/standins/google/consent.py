"""The user's browser: opens the link of connect-gmail, consents (or not) on the emulator's page, goes back to the gateway.

``python -m tests.standins.google.consent LINK [--deny] [--scopes "openid email"]`` prints the last page's title, and
exits 0 when the gateway said that the window can be closed.
"""

import argparse
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx


@dataclass(frozen=True)
class Page:
    """What the browser shows last."""

    status: int
    text: str

    @property
    def title(self) -> str:
        """The page's title."""
        return self.text.partition("<title>")[2].partition("</title>")[0]


class _Forms(HTMLParser):
    """The forms of a page with their hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect forms and hidden fields."""
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((found.get("action", ""), {}))
        elif tag == "input" and self.forms and found.get("name"):
            self.forms[-1][1][found["name"]] = found.get("value", "")


def consent(link: str, email: str = "ada@example.org", deny: bool = False, scopes: str | None = None) -> Page:
    """Play the login behind ``link`` as the user ``email``; ``scopes`` are the boxes that stay ticked."""
    with httpx.Client(timeout=20, trust_env=False) as browser:
        first = browser.get(link)
        if first.status_code != 302:
            return Page(first.status_code, first.text)
        asked = first.headers["location"]
        if deny:  # the emulator's page has no such button; this is where Google's leads
            query = parse_qs(urlsplit(asked).query)
            back = f"{query['redirect_uri'][0]}?{urlencode({'error': 'access_denied', 'state': query['state'][0]})}"
        else:
            page = browser.get(asked)
            reader = _Forms()
            reader.feed(page.text)
            form = next((form for form in reader.forms if form[1].get("email") == email), None)
            if page.status_code != 200 or form is None:
                return Page(page.status_code if page.status_code != 200 else 404, page.text)
            fields = form[1] | ({} if scopes is None else {"scope": scopes})
            sent = browser.post(urljoin(asked, form[0]), data=fields)
            back = sent.headers["location"]
        last = browser.get(back)
        return Page(last.status_code, last.text)


def main() -> None:
    """Play the login of the link given."""
    parser = argparse.ArgumentParser(prog="python -m tests.standins.google.consent")
    parser.add_argument("link")
    parser.add_argument("--email", default="ada@example.org")
    parser.add_argument("--deny", action="store_true")
    parser.add_argument("--scopes", default=None)
    given = parser.parse_args()
    page = consent(given.link, given.email, given.deny, given.scopes)
    print(page.title)
    sys.exit(0 if page.status == 200 else 1)


if __name__ == "__main__":
    main()
