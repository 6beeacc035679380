"""A whole backup of about 2 GB (see ``source``) beside pg_dump alone and beside what people use instead, in pairs.

Ours is `tasks.backups.dump.dump`, which tells itself when the file was compressed, hashed and on the disk; the whole is that
with the read-back, the counted rows, the schema's facts and the publishing. Figures that look at the same two things read the
same rounds. What stands beside writes its file without fsync, and proves nothing.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from tests.bench.backups.source import SOURCE, Source
from tests.bench.figures import Figure, Measure, Pair

SECONDS = 1800
"""For one backup; a machine that is busy with other things must not end it."""


@dataclass(frozen=True)
class Backup:
    """Seconds until our file was written and until it was published, and its bytes."""

    written: float
    whole: float
    size: int


@dataclass(frozen=True)
class Other:
    """What stands beside it: its seconds, and the bytes of its file."""

    seconds: float
    size: int


@contextmanager
def _beside(
    command: Callable[[Source], str], pair: Callable[[Backup, Other], Pair], needs: str = "sh"
) -> Iterator[Measure]:
    """Rounds of ours and of a shell command; figures with the same command read the same rounds."""
    _require(needs)
    source = SOURCE.get()

    def one(number: int) -> Pair:
        line = command(source)
        if (line, number) not in source.kept:
            if number % 2:
                first = _backup(source)
                source.kept[line, number] = first, _other(source, line)
            else:
                beside = _other(source, line)
                source.kept[line, number] = _backup(source), beside
        ours, other = source.kept[line, number]
        if 0 < other.size < ours.size / 2:  # a pipe's status is that of its last program
            raise RuntimeError(f"{other.size} bytes beside our {ours.size}: pg_dump failed")
        return pair(ours, other)

    yield one


def _backup(source: Source) -> Backup:
    from tasks.backups.dump import Job, dump
    from tasks.backups.source import Target

    path = source.folder / "latest.sql.gz"
    job = Job(Target(client="bench"), source.large, path, "bench", SECONDS, SECONDS, source.pg_bin)
    started = time.perf_counter()
    made = dump(job)
    return Backup(job.progress.written_seconds, time.perf_counter() - started, made.file_bytes)


def _other(source: Source, line: str) -> Other:
    file = source.folder / "beside"
    started = time.perf_counter()
    subprocess.run(["sh", "-c", line], env=source.env | {"FILE": str(file)}, check=True)
    seconds = time.perf_counter() - started
    size = file.stat().st_size if file.exists() else 0
    file.unlink(missing_ok=True)
    return Other(seconds, size)


def _require(program: str) -> None:
    """Install the Debian package ``program`` if it is not there."""
    if shutil.which(program):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(f"{program} is not installed; apt-get install {program}")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", program]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode or not shutil.which(program):
        raise RuntimeError(f"{program} cannot be installed: {done.stderr.strip()[-200:]}")


def _line(source: Source, rest: str, *options: str) -> str:
    return " ".join([*source.pg_dump(*options), rest])


def _written(ours: Backup, other: Other) -> Pair:
    return Pair(ours.written, other.seconds)


def _whole(ours: Backup, other: Other) -> Pair:
    return Pair(ours.whole, other.seconds)


def _size(ours: Backup, other: Other) -> Pair:
    return Pair(ours.size, other.size)


def _devnull(source: Source) -> str:
    return _line(source, "> /dev/null")


def _gzip(source: Source) -> str:
    return _line(source, '| gzip -6 > "$FILE"')


def _custom(source: Source) -> str:
    return _line(source, '> "$FILE"', "-Fc")


def _pigz(source: Source) -> str:
    return _line(source, '| pigz -p2 > "$FILE"')


SLOW = 2
"""Rounds of what takes a minute or more; without a warm-up."""
FIGURES = [
    Figure(
        "dump-beside-devnull",
        "wall time of a backup until it was dumped, compressed, hashed and fsynced / of `pg_dump > /dev/null`",
        1.15,
        partial(_beside, _devnull, _written),
    ),
    Figure(
        "whole-beside-devnull",
        "wall time of the same backups with proof, counted rows, the schema's facts and publishing / of `pg_dump > /dev/null`",
        1.5,
        partial(_beside, _devnull, _whole),
    ),
    Figure(
        "faster-than-gzip",
        "wall time of `pg_dump | gzip -6` / of a whole backup",
        5.0,
        partial(_beside, _gzip, _whole),
        reach=True,
        rounds=SLOW,
        warm_up=False,
    ),
    Figure(
        "file-beside-gzip",
        "bytes of our file / of that of `pg_dump | gzip -6`, in the same rounds",
        1.1,
        partial(_beside, _gzip, _size),
        rounds=SLOW,
        warm_up=False,
    ),
    Figure(
        "faster-than-custom-format",
        "wall time of `pg_dump -Fc` / of a whole backup",
        4.0,
        partial(_beside, _custom, _whole),
        reach=True,
        rounds=SLOW,
        warm_up=False,
    ),
    Figure(
        "faster-than-pigz",
        "wall time of `pg_dump | pigz -p2` / of a whole backup",
        2.5,
        partial(_beside, _pigz, _whole, "pigz"),
        reach=True,
        rounds=SLOW,
        warm_up=False,
    ),
]
