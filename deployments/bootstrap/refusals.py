"""Collecting what is wrong with the settings, so that an operator sees all of it at once."""

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from tasks.errors import FleetError, InvalidInput

P = ParamSpec("P")
T = TypeVar("T")


class BadSettings(InvalidInput):
    """Settings are refused before anything is touched; ``sentences`` has one for each, naming its variable."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = tuple(dict.fromkeys(sentences))
        count = "one setting is" if len(self.sentences) == 1 else f"{len(self.sentences)} settings are"
        lines = "".join(f"\n  - {sentence}" for sentence in self.sentences)
        super().__init__(
            f"{count} refused{lines}\n", "no block was changed: correct .env (or the environment), run again"
        )
        self.args = (f"{count} refused, and no block was changed:{lines}",)


class Refusals:
    """Gathers refusals while going on."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def attempt(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What ``function`` returns, or None when it refuses; the refusal is kept."""
        try:
            return function(*args, **kwargs)
        except BadSettings as refused:
            self.sentences += refused.sentences
        except FleetError as refused:
            self.sentences.append(str(refused))
        return None

    def refuse(self, what: str, cure: str) -> None:
        """Gather one more refusal: what is wrong, and what to do."""
        self.sentences.append(str(InvalidInput(what, cure)))

    def settle(self) -> None:
        """Return if nothing was refused.

        Raises:
            BadSettings: with every refusal that was gathered.
        """
        if self.sentences:
            raise BadSettings(self.sentences)
