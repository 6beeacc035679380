"""What the engine is given to build with: which Dockerfile, and the folder around it without what .dockerignore leaves out.

Everything comes from a repository that others write: no path and no link in it leads outside.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tasks.errors import InvalidInput, NotFound
from tasks.registry.source import Source

LOOKED_AT = ("Dockerfile", "docker/app/Dockerfile")
_OUTSIDE = ".zero-fleet.Dockerfile"
"""What a Dockerfile that is not inside the context is called there."""
_ARG = re.compile(r"^\s*ARG\s+(.+)$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """A Dockerfile of a repository and the folder that it is built in."""

    context: Path
    dockerfile: str
    """Its path in the context."""
    shown: str
    """Its path in the repository."""
    text: str
    inside: bool

    def takes(self, name: str) -> bool:
        """Whether it declares the build argument ``name``.

        >>> Recipe(Path(), "Dockerfile", "Dockerfile", "ARG A=1 B\\nRUN x", True).takes("B")
        True
        """
        return any(word.partition("=")[0] == name for line in _ARG.findall(self.text) for word in line.split())

    def pack(self, file: IO[bytes]) -> None:
        """Write the context into ``file`` as a tar, and go back to its beginning."""
        from docker.utils.build import tar

        tar(
            str(self.context),
            exclude=self._left_out(),
            dockerfile=(self.dockerfile, None if self.inside else self.text),
            fileobj=file,
        )

    def _left_out(self) -> list[str]:
        path = self.context / ".dockerignore"
        if path.is_symlink() or not path.is_file():
            return []
        lines = (line.strip() for line in path.read_text("utf-8", "replace").splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def find(repository: Path, source: Source) -> Recipe:
    """The recipe in ``repository`` (a checked-out one) that ``source`` means.

    Raises:
        NotFound: no Dockerfile, or no such folder; the sentence says where it was looked for.
        InvalidInput: a path leads out of the repository.
    """
    root = repository.resolve()
    context = _inside(root, source.context, "context")
    if not context.is_dir():
        raise NotFound(f"{source} has no folder {source.context}", "correct context, or leave it empty for the root")
    wanted = [source.dockerfile] if source.dockerfile else list(LOOKED_AT)
    if source.context and not source.dockerfile:
        wanted.insert(0, f"{source.context.rstrip('/')}/Dockerfile")
    for name in wanted:
        path = _inside(root, name, "dockerfile")
        if path.is_file():
            inside = path.is_relative_to(context)
            text = path.read_text("utf-8", "replace")
            return Recipe(context, os.path.relpath(path, context) if inside else _OUTSIDE, name, text, inside)
    raise NotFound(
        f"{source} has no Dockerfile (looked for {' and '.join(wanted)})",
        "correct dockerfile" if source.dockerfile else "name its path in dockerfile",
    )


def _inside(root: Path, path: str, field: str) -> Path:
    found = (root / path).resolve()
    if not found.is_relative_to(root):
        raise InvalidInput(f"{field} {path} leads out of the repository", "name one that is in it")
    return found
