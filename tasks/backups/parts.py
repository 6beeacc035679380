"""A backup in several mails: where it is cut, what the pieces are called and how they are joined. Pure, but for reading."""

import shlex
from dataclasses import dataclass

from tasks.backups.archive import OpenFile

MOST = 50
"""Mails for one backup; what takes more is better fetched."""


@dataclass(frozen=True)
class Part:
    """One piece of a file: its number from 1 on, of how many, and where it lies, in bytes."""

    number: int
    of: int
    offset: int
    length: int


def needed(size: int, room: int) -> int:
    """Parts of at most ``room`` bytes that ``size`` bytes take; 0: there is no room.

    >>> needed(100, 40), needed(80, 40), needed(1, 0)
    (3, 2, 0)
    """
    return -(-size // room) if room > 0 else 0


def cut(size: int, of: int) -> list[Part]:
    """``size`` bytes in ``of`` pieces; the same cuts each time, so that a later run can send what an earlier did not.

    >>> [(part.offset, part.length) for part in cut(10, 3)]
    [(0, 4), (4, 3), (7, 3)]
    """
    length, rest = divmod(size, of)
    starts = [number * length + min(number, rest) for number in range(of + 1)]
    return [Part(number, of, starts[number - 1], starts[number] - starts[number - 1]) for number in range(1, of + 1)]


def name(filename: str, number: int, of: int) -> str:
    """What a piece is called: so that a shell's ``*`` puts them into their order.

    >>> name("latest_backup.sql.gz", 3, 12)
    'latest_backup.sql.gz.part03of12'
    """
    return f"{filename}.part{number:02d}of{of:02d}"


def join(filename: str, of: int, encrypted: bool) -> str:
    """The command that makes the file of its pieces; each encrypted piece is one by itself.

    >>> print(join("b.gz", 4, False))
    cat b.gz.part*of04 > b.gz
    >>> print(join("b.gz", 4, True))
    for part in b.gz.part*of04.age; do age -d -i KEY "$part"; done > b.gz
    """
    plain = shlex.quote(filename)
    pieces = f"{plain}.part*of{of:02d}"
    if encrypted:
        return f'for part in {pieces}.age; do age -d -i KEY "$part"; done > {plain}'
    return f"cat {pieces} > {plain}"


class Piece:
    """A part of an open file, to be read once from its start."""

    def __init__(self, file: OpenFile, part: Part) -> None:
        file.seek(part.offset)
        self._file, self._left = file, part.length

    def read(self, count: int = -1) -> bytes:
        """At most ``count`` bytes; none at the end."""
        data = self._file.read(min(count, self._left) if count >= 0 else self._left)
        self._left -= len(data)
        return data
