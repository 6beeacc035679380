"""The stream of a backup: what goes in comes out, the digest is the file's, and the proof sees every kind of damage."""

import gzip
import hashlib
import io
import itertools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.backups import archive
from tasks.backups.archive import Archive, decompressed, prove
from tasks.errors import Damaged, Refused

END = b"\n--\n-- PostgreSQL database dump complete\n--\n\n"


def dump_of(size: int) -> bytes:
    """About ``size`` bytes, half of them incompressible, that end like a dump."""
    chance = random.Random(size)
    return (
        b"".join(chance.randbytes(500).hex().encode() + b"\tlorem ipsum" * 90 + b"\n" for _ in range(size // 2000))
        + END
    )


def sewn(path: Path, dump: bytes, piece: int) -> tuple[int, str, list[int]]:
    with open(path, "w+b", buffering=0) as file:
        under_way = Archive(file)
        for start in range(0, len(dump), piece):
            under_way.write(dump[start : start + piece])
        assert under_way.raw_bytes == len(dump) and archive.is_complete(under_way.tail)
        return *under_way.close(), under_way.seams


def written(path: Path, dump: bytes, piece: int) -> tuple[int, str]:
    size, digest, _ = sewn(path, dump, piece)
    return size, digest


@contextmanager
def opened(path: Path) -> Iterator[io.FileIO]:
    with open(path, "rb", buffering=0) as file:
        yield file


@pytest.mark.parametrize("piece", [10, 4096, 700_000, 3 << 20])
def test_the_file_is_a_gzip_of_what_was_written_and_its_digest_the_files(tmp_path, piece):
    dump, path = dump_of(60_000 if piece == 10 else 5_000_000), tmp_path / "a.gz"
    size, digest = written(path, dump, piece)
    assert gzip.decompress(path.read_bytes()) == dump
    assert (size, digest) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    with opened(path) as file:
        assert prove(file, path, len(dump)) == len(dump)
        assert b"".join(decompressed(file, path)) == dump


def test_the_disk_begins_early_and_each_part_once(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(archive, "EARLY", 100_000)
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, count, advice: begun.append((start, start + count)))
    size, _ = written(tmp_path / "a.gz", dump_of(4_000_000), 1 << 20)
    assert begun[0][0] == 0 and size - begun[-1][1] < 1 << 20
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(begun))


def test_a_file_system_that_cannot_begin_early_takes_the_backup_all_the_same(tmp_path, monkeypatch):
    def refusing(*given):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(archive, "EARLY", 100_000)
    for cannot in (refusing, None):
        if cannot:
            monkeypatch.setattr(os, "posix_fadvise", cannot)
        else:
            monkeypatch.delattr(os, "posix_fadvise")
        dump, path = dump_of(1_000_000), tmp_path / "a.gz"
        size, _ = written(path, dump, 1 << 20)
        with opened(path) as file:
            assert (size, prove(file, path)) == (path.stat().st_size, len(dump))


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: b"",
        lambda held: held[:-1],
        lambda held: held[:-8],
        lambda held: held[: len(held) // 2],
        lambda held: held[:5],
        lambda held: held[:-6] + bytes([held[-6] ^ 1]) + held[-5:],  # the CRC
        lambda held: held[:-2] + bytes([held[-2] ^ 1]) + held[-1:],  # the length
        lambda held: held[:40_000] + bytes([held[40_000] ^ 16]) + held[40_001:],
        lambda held: held + b"junk",
        lambda held: b"PGDMP" + held,
    ],
)
def test_damage_is_seen_by_whoever_reads(tmp_path, damage):
    dump, path = dump_of(1_500_000), tmp_path / "a.gz"
    written(path, dump, 1 << 20)
    path.write_bytes(damage(path.read_bytes()))
    with opened(path) as file:
        with pytest.raises(Damaged):
            prove(file, path, len(dump))
        if path.stat().st_size:  # an empty file is a gzip of nothing; only the proof wants a dump in it
            with pytest.raises(Damaged):
                for _ in decompressed(file, path):
                    pass


@pytest.mark.parametrize("provers", [1, 4])
def test_the_proof_by_members_sees_all_in_order_and_damage_in_each_part_of_each(tmp_path, monkeypatch, provers):
    monkeypatch.setattr(archive, "MEMBER", 200_000)
    monkeypatch.setattr(archive, "PROVERS", provers)
    dump, path, seen = dump_of(1_500_000), tmp_path / "a.gz", bytearray()
    size, _, seams = sewn(path, dump, 1 << 18)
    assert len(seams) == -(-len(dump) // 200_000) > 5 and seams == sorted(set(seams))
    assert gzip.decompress(path.read_bytes()) == dump
    with opened(path) as file:
        assert prove(file, path, len(dump), seen.extend, seams) == len(dump)
        assert b"".join(decompressed(file, path)) == dump == bytes(seen)
    held = path.read_bytes()
    bad = [held[:-1], held[: seams[-1]], held[: seams[-1] + 20], held + b"junk", held[: seams[2]] + held[seams[3] :]]
    bad += [held[: seams[-2]] + bytes(seams[-1] - seams[-2]) + held[seams[-1] :]]
    for start, end in itertools.pairwise((*seams, size)):
        for at in (start, start + 1, start + 300, (start + end) // 2, end - 8, end - 3):  # mark, data, CRC, length
            bad.append(held[:at] + bytes([held[at] ^ 4]) + held[at + 1 :])
    for damaged in bad:
        path.write_bytes(damaged)
        with opened(path) as file, pytest.raises(Damaged):
            prove(file, path, len(dump), seams=seams)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_dump_that_ends_where_a_member_does_is_whole(tmp_path, monkeypatch, beyond):
    dump, path = dump_of(300_000), tmp_path / "a.gz"
    monkeypatch.setattr(archive, "MEMBER", (len(dump) + beyond) // 2)
    _, _, seams = sewn(path, dump, 70_000)
    with opened(path) as file:
        assert prove(file, path, len(dump), seams=seams) == prove(file, path) == len(dump)


def test_a_dump_without_its_end_or_of_another_length_is_no_backup(tmp_path):
    path, cut = tmp_path / "a.gz", dump_of(300_000)
    path.write_bytes(gzip.compress(cut[:-3]))
    with opened(path) as file, pytest.raises(Damaged, match="its end is missing"):
        prove(file, path)
    written(path, cut, 1 << 20)
    with opened(path) as file, pytest.raises(Damaged):
        prove(file, path, len(cut) + 1)


def test_a_disk_that_is_full_is_said_by_whoever_writes():
    with open("/dev/full", "w+b", buffering=0) as full:
        under_way = Archive(full)
        with pytest.raises(OSError, match="No space left") as caught:
            under_way.write(random.randbytes(3_000_000))
    assert isinstance(archive.disk_error(caught.value, Path("/b")), Refused)


def test_a_disk_that_becomes_full_at_the_very_end_is_said_when_the_file_is_closed():
    with open("/dev/full", "w+b", buffering=0) as full:
        under_way = Archive(full)
        under_way.write(b"few")
        with pytest.raises(OSError, match="No space left"):
            under_way.close()
