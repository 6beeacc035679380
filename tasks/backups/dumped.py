"""What a plain dump holds, seen piece by piece while it is read back: the text of its schema, and rows where they are asked for.

The schema of the dump itself is what its restored copy must have; asked anew of the server it may be another one by then.
"""

import re
from collections.abc import Collection

_HEADLINE = re.compile(rb"^--\n-- (?:Data for )?Name: [^\n]*; Type: ([A-Z][A-Z ]*); Schema: [^\n]*\n--\n", re.MULTILINE)
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".()]+)'
_COPY = re.compile(rb"\s*COPY (" + _NAME + rb")\.(" + _NAME + rb') (?:\((?:[^"()]|"(?:[^"]|"")+")*\))? ?FROM stdin;\n')
_END = b"\n\\.\n"
_ROWS = "TABLE DATA"
_LARGE_OBJECTS = ("BLOB", "BLOBS", "BLOB METADATA")
"""As many entries as there are large objects, with all that is in them."""
_LONGEST = 1 << 18
"""Bytes; more than a headline and the columns of the widest table take."""


class Reader:
    """Takes a dump in pieces of any size.

    Args:
        counted: schema and name of the tables whose rows are to be counted.
    """

    def __init__(self, counted: Collection[tuple[str, str]] = ()) -> None:
        self.rows: dict[tuple[str, str], int] = dict.fromkeys(counted, 0)
        """Of the tables asked for; one that is not in the dump has none."""
        self._kept: list[bytes] = []
        self._held = b""
        self._keeps = True
        self._table: tuple[str, str] | None = None
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next piece."""
        at = 0
        while at < len(chunk):
            if self._table:
                at = self._rows(self._table, chunk, at)
            else:
                self._held += chunk[at:]
                held = self._statements()
                at, chunk = 0, held  # the rows that follow, if they begin

    def schema(self) -> str:
        """The statements of all that is no data; call it when the dump is at its end."""
        if self._keeps and not self._table:
            self._kept.append(self._held)
        self._held = b""
        return text_of(b"".join(self._kept))

    def _rows(self, table: tuple[str, str], chunk: bytes, at: int) -> int:
        """Go through rows from ``at`` on; where they end, or the end of ``chunk``."""
        bridge = self._tail + chunk[at : at + len(_END) - 1]
        found = bridge.find(_END)
        if found >= 0:
            upto = at + found + len(_END) - len(self._tail)
        else:
            found = chunk.find(_END, at) if _has(chunk, at) else -1
            upto = found + len(_END) if found >= 0 else len(chunk)
        if table in self.rows:
            self.rows[table] += chunk.count(b"\n", at, upto) - (found >= 0)
        if found >= 0:
            self._table = None
        else:
            self._tail = (self._tail + chunk[max(at, upto - len(_END)) : upto])[-len(_END) + 1 :]
        return upto

    def _statements(self) -> bytes:
        """Go through what is held; what lies behind the line with which rows begin, or nothing."""
        at = 0
        while headline := _HEADLINE.search(self._held, at):
            self._keep(self._held[at : headline.start()])
            kind = headline[1].decode()
            if kind == _ROWS:
                copy = _COPY.match(self._held, headline.end())
                if copy:
                    rest, self._held = self._held[copy.end() :], b""
                    self._table, self._tail = (_plain(copy[1]), _plain(copy[2])), b"\n"
                    self._keeps = True
                    return rest
                if len(self._held) - headline.end() < _LONGEST:  # its columns are still to come
                    self._held, self._keeps = self._held[headline.start() :], True
                    return b""
            self._keeps = kind not in (_ROWS, *_LARGE_OBJECTS)
            self._keep(headline[0])
            at = headline.end()
        cut = max(at, len(self._held) - _LONGEST)
        self._keep(self._held[at:cut])
        self._held = self._held[cut:]
        return b""

    def _keep(self, text: bytes) -> None:
        if self._keeps and text:
            self._kept.append(text)


def _has(chunk: bytes, at: int) -> bool:
    """Whether rows end behind ``at``: most chunks have no backslash, and from behind one is told twice as fast that they do not."""
    return chunk.find(b"\\", at) >= 0 and chunk.rfind(_END, at) >= 0


def text_of(dump: bytes) -> str:
    """A dump's bytes as text; where they are not UTF-8, each byte is a letter, which is enough to compare them."""
    try:
        return dump.decode()
    except UnicodeDecodeError:
        return dump.decode("latin-1")


def _plain(name: bytes) -> str:
    text = name.decode(errors="replace")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
