"""age encryption of what leaves the machine; the keys to decrypt are never here."""

from collections.abc import Sequence
from typing import Any, Protocol

from tasks.errors import InvalidInput, Refused

WHERE = "BACKUP_AGE_RECIPIENTS (Encrypt for in the block backup-policy)"
SUFFIX = ".age"
_CHUNK = 65_536
_HEADER, _HEADER_PER_KEY = 1024, 1024
"""age's header at most: its own lines with rage's random ones, and per key as much as an RSA key of 4096 bits takes."""

Key = Any
"""A pyrage recipient of either kind."""


class Reads(Protocol):
    """What is encrypted: a file, or a piece of one."""

    def read(self, count: int, /) -> bytes:
        """At most ``count`` bytes; none at the end."""
        ...


class Writes(Protocol):
    """Where it goes."""

    def write(self, data: bytes, /) -> int | None:
        """Write ``data``."""
        ...


def keys(given: Sequence[str]) -> list[Key]:
    """The public keys in ``given``, one in each text; empty ones are passed over beside others.

    Raises:
        InvalidInput: one is none, or a secret key, or all are empty, which would mean no encryption where somebody began to ask
            for it; what was given is not repeated, since it may be a secret.

    >>> keys(["AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33"])
    Traceback (most recent call last):
    tasks.errors.InvalidInput: BACKUP_AGE_RECIPIENTS (Encrypt for in the block backup-policy) holds a secret key where a public one belongs; take it out, make a new pair with age-keygen since this one could be read here, and write the public key (age1…).
    >>> keys(["", "hush"])
    Traceback (most recent call last):
    tasks.errors.InvalidInput: BACKUP_AGE_RECIPIENTS (Encrypt for in the block backup-policy): number 1 is no public key; write what age-keygen prints (age1…), or a line of an SSH key (ssh-ed25519 … or ssh-rsa …).
    """
    import pyrage

    plain = list(dict.fromkeys(" ".join(one.split()) for one in given if one.strip()))
    if given and not plain:
        raise InvalidInput(
            f"{WHERE} holds an empty line and no key", "write a public key (age1…), or take the empty line away"
        )
    found = []
    for number, text in enumerate(plain, 1):
        if text.upper().startswith("AGE-SECRET-KEY") or "PRIVATE KEY" in text.upper():
            raise InvalidInput(
                f"{WHERE} holds a secret key where a public one belongs",
                "take it out, make a new pair with age-keygen since this one could be read here, and write the public "
                "key (age1…)",
            )
        kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
        try:
            found.append(kind.from_str(text))
        except pyrage.RecipientError:
            raise InvalidInput(
                f"{WHERE}: number {number} is no public key",
                "write what age-keygen prints (age1…), or a line of an SSH key (ssh-ed25519 … or ssh-rsa …)",
            ) from None
    return found


def most(count: int, keys: int) -> int:
    """Bytes that ``count`` bytes encrypted for so many ``keys`` take at most.

    >>> most(0, 1), most(10 * 65_536, 2) - 10 * 65_536
    (2080, 3264)
    """
    return count + _HEADER + _HEADER_PER_KEY * keys + 16 * (count // _CHUNK + 2)


def fits(room: int, keys: int) -> int:
    """Bytes that surely take no more than ``room`` bytes when they are encrypted; 0 or less: none.

    >>> most(fits(1_000_000, 3), 3) <= 1_000_000 < most(fits(1_000_000, 3) + 64, 3)
    True
    """
    return room - (most(room, keys) - room)


def encrypt(source: Reads, into: Writes, keys: Sequence[Key]) -> None:
    """Encrypt ``source``, from where it stands, for ``keys``, piece by piece.

    Raises:
        OSError: the disk refuses.
        Refused: age does.
    """
    import pyrage

    watched = _Watched(into)
    try:
        pyrage.encrypt_io(source, watched, keys)
    except Exception as error:
        if watched.failure is not None:  # the disk's own word, which pyrage wraps
            raise watched.failure from None
        if isinstance(error, OSError):
            raise
        raise Refused(
            f"the backup could not be encrypted ({type(error).__name__})", "see the log and run again"
        ) from None


def encrypted(data: bytes, keys: Sequence[Key]) -> bytes:
    """``data`` encrypted for ``keys``; for what is small."""
    import pyrage

    return bytes(pyrage.encrypt(data, keys))


class _Watched:
    """A file that all of what is given to it is written to, and that keeps the error of one that failed."""

    def __init__(self, file: Writes) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        try:
            while left:  # unbuffered, so it may take less
                left = left[self._file.write(bytes(left)) or 0 :]
        except OSError as error:
            self.failure = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered here."""
