"""The file of a backup: compressed and hashed as it is written, proven by reading it back, and then published in one move."""

import hashlib
import io
import os
import re
import stat
import struct
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.errors import Damaged, FleetError, Refused

OpenFile = io.FileIO | io.BufferedReader
CHUNK = 1 << 20
MEMBER = 1 << 20
"""Bytes of the dump in one gzip member. A file of several is a gzip file like any other (RFC 1952, 2.2), 0.08 % larger; but
each can be read by itself, so the proof takes all processors that there are.
"""
PROVERS = min(4, os.cpu_count() or 1)
EARLY = 32 << 20
"""Bytes after which the system is asked to begin to write; the last fsync then has little left to wait for."""
TAIL = 4096
"""Bytes at the end in which the trailer of a complete dump must lie."""
_COMPLETE = re.compile(rb"\n-- PostgreSQL database dump complete\n--\n\s*(\\unrestrict [A-Za-z0-9]+\n\s*)?\Z")


class Archive:
    """A compressed dump under way in a temporary file of its target's folder.

    ISA-L keeps pace with pg_dump. Level 2 makes 0.6 % less (1.1 % of prose) and level 3 another 0.6 %, for 3 % and 60 % more of
    our time. It works in the thread that writes: handing each piece to another took more of the two processors that such a
    machine has than it gave.
    """

    def __init__(self, file: io.FileIO) -> None:
        # What was freed once is the measure of what glibc gives back to the system. Without this piece, which nobody touches,
        # it fetched and gave back the memory of most others, and that took an eighth of the CPU time of stream and proof.
        bytes(8 << 20)
        self._file = file
        self._digest = hashlib.sha256()
        self._begun = 0
        self._member = 0
        """Bytes of the dump in the member under way."""
        self._gzip = self._another()
        self.size = 0
        self.raw_bytes = 0
        self.tail = b""
        self.seams = [0]
        """Where in the file each member begins."""

    def write(self, data: bytes | memoryview) -> None:
        """Compress ``data``, which may change afterwards; raises OSError when the disk refuses."""
        left = memoryview(data)
        while left:
            if self._member == MEMBER:
                self._put(self._gzip.flush())
                self._gzip, self._member = self._another(), 0
                self.seams.append(self.size)
            piece = left[: MEMBER - self._member]
            self._put(self._gzip.compress(piece))
            self._member += len(piece)
            left = left[len(piece) :]
        self.raw_bytes += len(data)
        self.tail = (self.tail + data[-TAIL:])[-TAIL:]

    def close(self) -> tuple[int, str]:
        """Finish the file and bring it to the disk; its size in bytes and SHA-256."""
        self._put(self._gzip.flush())
        os.fsync(self._file.fileno())
        return self.size, self._digest.hexdigest()

    @staticmethod
    def _another() -> Any:
        from isal import isal_zlib

        return isal_zlib.compressobj(1, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        while left:  # unbuffered, so that an error shows here and once
            left = left[self._file.write(left) :]
        self._digest.update(data)
        self.size += len(data)
        if self.size - self._begun >= EARLY:
            self._begin()

    def _begin(self) -> None:
        """Let the disk begin with what it was not yet asked for (Linux starts to write before it lets pages go, and these,
        being dirty, it keeps; where the file system cannot, the fsync at the end does all).
        """
        with suppress(AttributeError, OSError):
            os.posix_fadvise(self._file.fileno(), self._begun, self.size - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self.size


def is_complete(tail: bytes) -> bool:
    r"""Whether ``tail`` ends as a complete dump does (from 15.14 on a line ``\unrestrict KEY`` follows the trailer).

    >>> is_complete(b"x\n--\n-- PostgreSQL database dump complete\n--\n\n"), is_complete(b"COPY a FROM stdin;\n1")
    (True, False)
    """
    return bool(_COMPLETE.search(b"\n" + tail))


def prove(
    file: OpenFile,
    path: Path,
    raw_bytes: int | None = None,
    see: Callable[[bytes], None] = lambda chunk: None,
    seams: Sequence[int] = (),
) -> int:
    """Read the whole compressed dump ``file`` through the decompressor; the raw bytes it holds.

    Args:
        file: open for reading.
        path: as it is called in errors.
        raw_bytes: that it has to hold, where they are known.
        see: is shown all of the dump, piece by piece.
        seams: where its members begin, from its ``Archive``, so that several can be read at once.

    Raises:
        Damaged: it is empty, cut short, altered, or no complete dump.
    """
    held, tail = 0, b""
    for chunk in _members(file, path, seams) if seams else decompressed(file, path):
        held += len(chunk)
        see(chunk)
        tail = chunk[-TAIL:] if len(chunk) >= TAIL else (tail + chunk)[-TAIL:]
    if not is_complete(tail) or (raw_bytes is not None and held != raw_bytes):
        raise Damaged(f"{path} is no complete dump (its end is missing)", "make a new backup and keep this file aside")
    return held


def decompressed(file: OpenFile, path: Path) -> Iterator[bytes]:
    """The dump in ``file``, from its start, in pieces of at most 1 MiB.

    Raises:
        Damaged: it is no gzip file, or is cut short or altered.
    """
    from isal import igzip_threaded

    file.seek(0)
    with _read(path), igzip_threaded.open(file, "rb", block_size=CHUNK // 2) as reader:  # type: ignore[no-untyped-call]
        while chunk := reader.read(CHUNK):
            yield chunk


def _members(file: OpenFile, path: Path, seams: Sequence[int]) -> Iterator[bytes]:
    """The dump in ``file``, member by member, each with its own length and CRC checked; several are read at once.

    Raises:
        Damaged: one is cut short or altered.
    """
    from isal import igzip

    def member(start: int, end: int) -> bytes:
        return igzip.decompress(os.pread(file.fileno(), end - start, start))  # type: ignore[no-any-return, no-untyped-call]

    underway: deque[Future[bytes]] = deque()
    with _read(path), ThreadPoolExecutor(PROVERS, "proof") as pool:
        for start, end in pairwise((*seams, os.fstat(file.fileno()).st_size)):
            underway.append(pool.submit(member, start, end))
            if len(underway) > PROVERS:
                yield underway.popleft().result()
        while underway:
            yield underway.popleft().result()


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """What the decompressor raises inside, as errors about the backup at ``path``."""
    from isal import isal_zlib

    try:
        yield
    except (EOFError, ValueError, struct.error, OSError, isal_zlib.error) as error:  # type: ignore[misc]
        if isinstance(error, OSError) and error.errno:
            raise disk_error(error, path) from None
        raise Damaged(
            f"{path} is damaged ({error})", "make a new backup and keep this file aside; look at the disk"
        ) from None


def opened(path: Path) -> io.BufferedReader:
    """The file ``path`` to read.

    Raises:
        Damaged: it is no regular file; a pipe would be waited for without end.
        OSError: it is not there, or may not be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Damaged(f"{path} is no regular file", "see who put it there, remove it, and make a new backup")
    return open(handle, "rb")


def sha256(file: OpenFile) -> str:
    """The SHA-256 of ``file`` from its start."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def temporary(path: Path) -> Iterator[tuple[io.FileIO, Path]]:
    """A new 0600 file beside ``path``; whatever happens it is gone afterwards, unless it was renamed.

    What killed runs left is removed first: the caller holds the target's lock, so nobody writes it.

    Raises:
        Refused: the folder cannot be made or written, or ``path`` is a folder.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(error, path.parent) from None
    try:
        sweep(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise disk_error(error, path.parent) from None
    if path.is_dir():
        os.close(handle)
        part.unlink()
        raise Refused(f"{path} is a folder, so no backup can lie there", "move it away, or choose another file name")
    try:
        with open(handle, "w+b", buffering=0) as file:
            yield file, part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def passing(path: Path, suffix: str) -> Iterator[io.FileIO]:
    """A 0600 file without a name on the disk of ``path``, for what is made and read once; nothing is left of it, even by a kill.

    Where the file system has no files without a name it has one for a moment, of the kind that ``sweep`` removes.

    Raises:
        Refused: the folder cannot be written.
    """
    mark = f".{path.name}.{os.getpid()}."
    try:
        file = tempfile.TemporaryFile(buffering=0, prefix=mark, suffix=f"{suffix}.part", dir=path.parent)  # noqa: SIM115
    except OSError as error:
        raise disk_error(error, path.parent) from None
    with file:
        yield file


def sweep(path: Path) -> list[Path]:
    """Remove temporary files of ``path``'s killed runs; which they were."""
    left = list(path.parent.glob(f".{_literal(path.name)}.*.part"))
    for part in left:
        part.unlink(missing_ok=True)
    return left


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def publish(part: Path, path: Path) -> None:
    """Move ``part`` to ``path`` in one step and bring the folder to the disk."""
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def existing(folder: Path) -> Path:
    """``folder``, or the nearest above it that exists: where it would be made, and on whose disk.

    >>> existing(Path("/no such folder/below it"))
    PosixPath('/')
    """
    return next(one for one in (folder, *folder.parents) if one.exists())


def _no_folder(error: OSError, folder: Path) -> FleetError:
    """Why ``folder`` could not be made, where it had to be: below something that lets nobody make one, like ``/proc``."""
    import errno

    if folder.is_symlink() and not folder.exists():
        return Refused(
            f"the folder {folder} is a link that leads nowhere",
            "mend it, or choose another folder in the block backup-policy",
        )
    if error.errno != errno.ENOENT:
        return disk_error(error, folder)
    there = existing(folder)
    return Refused(
        f"the folder {folder} cannot be made: the system lets nobody make a folder in {there} ({error.strerror})",
        "choose another folder in the block backup-policy (LOCAL_BACKUP_DIR)",
    )


def disk_error(error: OSError, path: Path) -> FleetError:
    """What the file system's refusal means for the backups at ``path``.

    >>> import errno
    >>> print(disk_error(OSError(errno.ENOSPC, ""), Path("/b")))
    no space is left on the disk of /b, the previous backup is untouched; free space there and run again.
    """
    import errno

    what, cure = {
        errno.ENOSPC: (
            f"no space is left on the disk of {path}, the previous backup is untouched",
            "free space there and run again",
        ),
        errno.EDQUOT: (
            f"the disk quota at {path} is used up, the previous backup is untouched",
            "raise it or free space there and run again",
        ),
        errno.EACCES: (
            f"the folder {path} cannot be written (permission denied)",
            "give the worker's user the right to write there, or choose another folder in the block backup-policy",
        ),
        errno.EPERM: (
            f"the folder {path} cannot be written (operation not permitted)",
            "give the worker's user the right to write there, or choose another folder in the block backup-policy",
        ),
        errno.EROFS: (
            f"the folder {path} is on a read-only file system",
            "mount it writable, or choose another folder in the block backup-policy",
        ),
        errno.ENOTDIR: (
            f"{path} or a part of its path is a file, not a folder",
            "move that file away, or choose another folder in the block backup-policy",
        ),
        errno.EEXIST: (
            f"{path} is a file, not a folder",
            "move that file away, or choose another folder in the block backup-policy",
        ),
    }.get(
        error.errno or 0, (f"the disk of {path} failed ({error.strerror or error})", "look at the disk and run again")
    )
    return Refused(what, cure)
