"""A smaller gzip of a backup that is nearly too big to mail: slower than dumping allows, quick enough for one mail."""

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

from tasks.backups import archive
from tasks.backups.archive import OpenFile, disk_error
from tasks.backups.manifest import Manifest

LEVEL = 8
"""zlib-ng's smallest: level 9 gave larger files on all four data sets below."""
CLOSE = 1.2
"""So much too big is worth a try. Measured against ISA-L's level 2, 20 MB each: prose of mails 1.20, jsonb 1.14, a mix of
both with base64 1.14, base64 alone 1.00 (nothing to win), at 17 to 40 MB/s of the raw dump. Our files are of level 1, which
are larger by another 0 to 1 %.
"""


def recompress(file: OpenFile, path: Path, into: io.FileIO, made: Manifest) -> Manifest:
    """Compress the dump in ``file`` anew, harder, into ``into``; the manifest of what came of it.

    Args:
        file: the backup.
        path: where it lies, for the sentences.
        into: an empty file.
        made: the backup's manifest.

    Raises:
        Damaged: the backup cannot be read.
        Refused: the disk is full.
    """
    from zlib_ng import gzip_ng_threaded

    into.seek(0)
    try:
        with gzip_ng_threaded.open(into, "wb", LEVEL, threads=1, block_size=archive.CHUNK) as smaller:  # type: ignore[no-untyped-call]
            for chunk in archive.decompressed(file, path):
                smaller.write(chunk)
    except OSError as error:
        raise disk_error(error, path.parent) from None
    into.seek(0)
    digest = hashlib.file_digest(into, "sha256").hexdigest()
    return replace(made, file_bytes=os.fstat(into.fileno()).st_size, sha256=digest)
