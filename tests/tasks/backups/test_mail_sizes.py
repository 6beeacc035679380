"""What a mail brings when the file is too big or encrypted: compressed harder, in parts, decrypted and joined by the mail's own words."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pyrage
import pytest
from isal import igzip

from tasks.backups import delivery, encryption, parts, recompression
from tasks.backups.mail import Account
from tasks.backups.manifest import Manifest
from tasks.backups.posted import Book
from tasks.errors import Damaged, InvalidInput, Refused
from tasks.registry.models import Delivery, MailState
from tests.tasks.backups import posting
from tests.tasks.backups.mail_server import PASSWORD, USER, certificates, mails, running
from tests.tasks.backups.posting import post

NAME = "latest backup.sql.gz"


@pytest.fixture(scope="module")
def pem(tmp_path_factory) -> tuple[Path, Path, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def book(tmp_path):
    with posting.books(tmp_path) as engine:
        yield Book(engine, posting.row_of(engine))


@contextmanager
def server(folder: Path, pem, size: int):
    """A mail server that takes mails of ``size`` bytes, and an account there."""
    with running(folder, pem[1], pem[2], size=size) as (_, port):
        yield Account("localhost", port, "STARTTLS", USER, PASSWORD, str(pem[0]))


def _backup(folder: Path, data: bytes) -> tuple[Manifest, Path]:
    path = folder / "backups" / NAME
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return posting.manifest(len(data), hashlib.sha256(data).hexdigest()), path


def _text(mail) -> str:
    return mail.get_body().get_content()


def _save(mail, folder: Path) -> list[str]:
    """Save a mail's attachments; their names."""
    folder.mkdir(exist_ok=True)
    names = []
    for one in mail.iter_attachments():
        content = one.get_content()
        names.append(one.get_filename())
        (folder / names[-1]).write_bytes(content.encode() if isinstance(content, str) else content)
    return names


class Key:
    """An age key, and an `age` of its own: the program is not on this machine, its file format is."""

    def __init__(self, folder: Path) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.public, self.folder = str(identity.to_public()), folder
        (folder / "KEY").write_text(str(identity))
        age = folder / "bin" / "age"
        age.parent.mkdir()
        age.write_text(
            "#!/usr/bin/env python3\nimport sys, pyrage\n_, d, i, key, *file = sys.argv\nassert (d, i) == ('-d', '-i')\n"
            "key = pyrage.x25519.Identity.from_str(open(key).read())\n"
            "sys.stdout.buffer.write(pyrage.decrypt(open(file[0], 'rb').read(), [key]))\n"
        )
        age.chmod(0o700)

    def run(self, command: str, where: Path) -> str:
        """Run a mail's own command in ``where``."""
        shutil.copy(self.folder / "KEY", where)
        venv = Path(sys.executable).parent
        path = f"{self.folder / 'bin'}:{venv}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command], check=False, cwd=where, env={"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def key(tmp_path) -> Key:
    folder = tmp_path / "key"
    folder.mkdir()
    return Key(folder)


def _line(text: str, begin: str) -> str:
    """The first line of the mail's text that begins so."""
    return next(line for line in text.splitlines() if line.startswith(begin))


def test_an_encrypted_backup_opens_with_the_commands_of_its_mail(tmp_path, pem, book, key):
    backup = _backup(tmp_path, os.urandom(300_001))
    other = pyrage.x25519.Identity.generate()
    with server(tmp_path / "m", pem, 2_000_000) as account:
        given = post("a@example.org", age=(key.public, str(other.to_public())))
        came = posting.deliver(account, given, book, backup)
    assert (came.state, came.sentence) == (Delivery.SENT, "mailed to a@example.org, encrypted for 2 keys")
    (mail,) = mails(tmp_path / "m")
    assert _save(mail, tmp_path / "in") == [f"{NAME}.age", f"{NAME}.json.age"]
    assert b"age-encryption.org/v1" in (tmp_path / "in" / f"{NAME}.age").read_bytes()[:100]
    text = _text(mail)
    key.run(_line(text, "age -d"), tmp_path / "in")
    assert (tmp_path / "in" / NAME).read_bytes() == backup[1].read_bytes()
    assert key.run(_line(text, "echo"), tmp_path / "in").strip() == f"{NAME}: OK"
    assert re.search(rf"age -d -i KEY '{NAME}\.age' \| gunzip \| psql -X", text)
    beside = pyrage.decrypt((tmp_path / "in" / f"{NAME}.json.age").read_bytes(), [other])
    assert Manifest.from_json(beside.decode(), backup[1]) == backup[0]
    assert os.listdir(backup[1].parent) == [NAME]


def test_ssh_keys_encrypt_too(tmp_path, pem, book):
    made = []
    for kind in ("ed25519", "rsa"):
        file = tmp_path / kind
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "ops@example.org", "-f", file], check=True)
        made.append((pyrage.ssh.Identity.from_buffer(file.read_bytes()), (tmp_path / f"{kind}.pub").read_text()))
    backup = _backup(tmp_path, os.urandom(70_000))
    with server(tmp_path / "m", pem, 2_000_000) as account:
        posting.deliver(account, post("a@example.org", age=tuple(public for _, public in made)), book, backup)
    (mail,) = mails(tmp_path / "m")
    _save(mail, tmp_path / "in")
    for secret, _ in made:
        assert pyrage.decrypt((tmp_path / "in" / f"{NAME}.age").read_bytes(), [secret]) == (backup[1]).read_bytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (str(pyrage.x25519.Identity.generate()), "holds a secret key where a public one belongs"),
        (str(pyrage.x25519.Identity.generate()).lower(), "holds a secret key where a public one belongs"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "holds a secret key where a public one belongs"),
        ("age1nonsense-hush", "number 1 is no public key"),
        ("ssh-ed25519 hush", "number 1 is no public key"),
        ("ssh-dss AAAA", "number 1 is no public key"),
        ("hush", "number 1 is no public key"),
    ],
    ids=["secret key", "in small letters", "private SSH key", "nonsense", "cut SSH key", "old SSH key", "word"],
)
def test_what_is_no_public_key_is_refused_without_being_repeated(tmp_path, pem, book, given, words):
    with pytest.raises(InvalidInput, match=words) as refused:
        encryption.keys([given])
    backup = _backup(tmp_path, b"x")
    with server(tmp_path / "m", pem, 2_000_000) as account:
        came = posting.deliver(account, post("a@example.org", age=(given,)), book, backup)
    assert came.state == Delivery.FAILED and words in came.sentence
    for said in (str(refused.value), came.sentence):
        assert "hush" not in said and given not in said and given.lower() not in said.lower()
    assert mails(tmp_path / "m") == []


def test_encrypting_takes_no_more_room_than_was_reckoned(tmp_path):
    one = pyrage.x25519.Identity.generate().to_public()
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "4096", "-N", "", "-f", tmp_path / "rsa"], check=True)
    big = encryption.keys([(tmp_path / "rsa.pub").read_text()])[0]
    for count in (0, 1, 65_535, 65_536, 65_537, 1_000_000):
        for keys in ([one], [one, big], [big] * 5):
            into = io.BytesIO()
            encryption.encrypt(io.BytesIO(bytes(count)), into, keys)
            assert len(into.getvalue()) <= encryption.most(count, len(keys))


def test_a_full_disk_is_said_when_a_copy_is_encrypted_or_compressed_harder(tmp_path):
    keys = [pyrage.x25519.Identity.generate().to_public()]
    with open("/dev/full", "wb", buffering=0) as full:
        with pytest.raises(OSError, match="No space left"):
            encryption.encrypt(io.BytesIO(bytes(200_000)), full, keys)
        made, path = _backup(tmp_path, igzip.compress(os.urandom(3_000_000), 2))
        with path.open("rb") as file, pytest.raises(Refused, match="no space is left on the disk"):
            recompression.recompress(file, path, full, made)


def _sql(count: int) -> bytes:
    """Text as it lies in a dump of mails."""
    chance = random.Random(4)
    words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 11))) for _ in range(3000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    rows, size = [b"--\n-- PostgreSQL database dump\n--\n"], 0
    while size < count:
        rows.append(b"\t".join((b"%d" % len(rows), b" ".join(chance.choices(words, weights, k=chance.randint(5, 60))))))
        size += len(rows[-1]) + 1
    return b"\n".join(rows) + b"\n--\n-- PostgreSQL database dump complete\n--\n\n"


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_is_nearly_too_big_is_compressed_harder(tmp_path, pem, book, key, encrypted):
    raw = _sql(3_000_000)
    backup = _backup(tmp_path, igzip.compress(raw, 2))
    limit = int(len(backup[1].read_bytes()) * 1.368 * 0.97)
    given = post("a@example.org", age=(key.public,) if encrypted else ())
    with server(tmp_path / "m", pem, limit) as account:
        came = posting.deliver(account, given, book, backup)
    assert came.state == Delivery.SENT and "compressed harder to fit" in came.sentence, came.sentence
    (mail,) = mails(tmp_path / "m")
    where = tmp_path / "in"
    _save(mail, where)
    text = _text(mail)
    if encrypted:
        key.run(_line(text, "age -d"), where)
        beside = key.run(f"age -d -i KEY '{NAME}.json.age'", where)
    else:
        beside = (where / f"{NAME}.json").read_text()
    assert key.run(_line(text, "echo"), where).strip() == f"{NAME}: OK"
    arrived = (where / NAME).read_bytes()
    assert igzip.decompress(arrived) == raw and len(arrived) < backup[0].file_bytes
    assert backup[0].sha256 in text  # of the file on the machine
    # The manifest is that of the file which it comes with, so that restore-database takes the two.
    told = json.loads(beside)
    assert (told["file_bytes"], told["sha256"]) == (len(arrived), hashlib.sha256(arrived).hexdigest())
    assert os.listdir(backup[1].parent) == [NAME]
    assert hashlib.sha256(backup[1].read_bytes()).hexdigest() == backup[0].sha256


def test_what_cannot_be_compressed_harder_goes_without_the_file(tmp_path, pem, book):
    backup = _backup(tmp_path, igzip.compress(os.urandom(400_000) + _sql(0), 2))
    with server(tmp_path / "m", pem, 500_000) as account:
        came = posting.deliver(account, post("a@example.org"), book, backup)
    assert came.state == Delivery.SENT_WITHOUT_FILE and "also when it is compressed harder" in came.sentence


def test_a_damaged_backup_is_not_mailed_compressed_harder(tmp_path, pem, book):
    backup = _backup(tmp_path, igzip.compress(os.urandom(400_000), 2)[:-20])
    with server(tmp_path / "m", pem, 500_000) as account:
        came = posting.deliver(account, post("a@example.org"), book, backup)
    assert isinstance(came.error, Damaged) and came.state == Delivery.FAILED


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_backup_in_parts_is_joined_by_the_command_of_its_mails(tmp_path, pem, book, key, encrypted):
    backup = _backup(tmp_path, os.urandom(500_001))
    given = post("a@example.org", "b@example.org", too_big="parts", age=(key.public,) if encrypted else ())
    with server(tmp_path / "m", pem, 200_000) as account:
        came = posting.deliver(account, given, book, backup)
    arrived = mails(tmp_path / "m")
    assert came.state == Delivery.SENT_IN_PARTS
    assert came.sentence.startswith(f"mailed to a@example.org, b@example.org in {len(arrived)} parts")
    assert all(path.stat().st_size <= 200_000 for path in (tmp_path / "m").glob("*.eml"))
    begin = "[AgentAssistant] Backup acme - 2026-01-02 03:04"
    assert [mail["subject"] for mail in arrived] == [
        f"{begin} (part {n} of {len(arrived)})" for n in range(1, len(arrived) + 1)
    ]
    assert len({mail["message-id"] for mail in arrived}) == len(arrived)
    where = tmp_path / "in"
    for mail in reversed(arrived):
        _save(mail, where)
    last = ".age" if encrypted else ""
    assert f"{NAME}.part01of{len(arrived):02d}{last}" in os.listdir(where)
    for mail in arrived:
        text = _text(mail)
        key.run(_line(text, "for part" if encrypted else "cat"), where)
        assert key.run(_line(text, "echo"), where).strip() == f"{NAME}: OK"
        assert (where / NAME).read_bytes() == backup[1].read_bytes()
        (where / NAME).unlink()
    assert f"{NAME}.json{last}" in os.listdir(where)
    noted = [(one.part, one.parts, one.state) for one in book.mails()]
    assert noted == [(n, len(arrived), MailState.SENT) for n in range(1, len(arrived) + 1)]
    assert os.listdir(backup[1].parent) == [NAME]


def test_only_the_parts_that_are_missing_are_sent_later(tmp_path, pem, book, key, monkeypatch):
    """Encrypted, which would be another file each time: each part is one by itself, so old and new ones join."""
    backup = _backup(tmp_path, os.urandom(500_001))
    given = post("a@example.org", "b@example.org", too_big="parts", age=(key.public,))
    with server(tmp_path / "m", pem, 200_000) as account:
        real, sent = delivery.mail.offer, []

        def gone(*args, **kwargs):
            sent.append(1)
            if len(sent) == 3:
                raise Refused("the server is closed", "wait")
            return real(*args, **kwargs)

        monkeypatch.setattr(delivery.mail, "offer", gone)
        came = posting.deliver(account, given, book, backup)
        assert came.state == Delivery.FAILED and "parts 1 and 2 of 4 came through, the rest not" in came.sentence
        assert len(mails(tmp_path / "m")) == 2
        came = posting.deliver(account, given, book, backup)
    assert came.state == Delivery.SENT_IN_PARTS and came.sentence.startswith(
        "mailed to a@example.org, b@example.org in 4"
    )
    arrived = mails(tmp_path / "m")
    assert [mail["subject"][-13:] for mail in arrived] == [f"(part {n} of 4)" for n in range(1, 5)]
    where = tmp_path / "in"
    for mail in arrived:
        _save(mail, where)
    key.run(_line(_text(arrived[-1]), "for part"), where)
    assert (where / NAME).read_bytes() == backup[1].read_bytes()


def test_one_refused_recipient_does_not_keep_the_parts_from_the_other(tmp_path, pem, book):
    backup = _backup(tmp_path, os.urandom(500_001))
    given = post("a@example.org", "refused@example.org", too_big="parts")
    with server(tmp_path / "m", pem, 300_000) as account:
        came = posting.deliver(account, given, book, backup)
        assert came.state == Delivery.FAILED and "only a@example.org got it: recipient refused@" in came.sentence
        first = len(mails(tmp_path / "m"))
        given = post("a@example.org", "b@example.org", too_big="parts")
        assert posting.deliver(account, given, book, backup).state == Delivery.SENT_IN_PARTS
    arrived = mails(tmp_path / "m")
    assert len(arrived) == 2 * first and {mail["to"] for mail in arrived[first:]} == {"b@example.org"}
    assert not any("again" in mail["subject"] or "earlier" in mail["subject"] for mail in arrived)


def test_so_many_parts_are_too_many(tmp_path, pem, book):
    backup = _backup(tmp_path, os.urandom(3_000_000))
    with server(tmp_path / "m", pem, 50_000) as account:
        came = posting.deliver(account, post("a@example.org", too_big="parts"), book, backup)
    assert came.state == Delivery.SENT_WITHOUT_FILE and f"more than {parts.MOST} mails" in came.sentence


def test_a_server_too_small_for_any_file_gets_the_report(tmp_path, pem, book):
    backup = _backup(tmp_path, os.urandom(30_000))
    with server(tmp_path / "m", pem, 6_000) as account:
        came = posting.deliver(account, post("a@example.org", too_big="parts"), book, backup)
    assert came.state == Delivery.SENT_WITHOUT_FILE


@pytest.mark.parametrize("size", [0, 1, 5, 100_003])
def test_the_cuts_are_the_file(size, tmp_path):
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    for of in (1, 2, 3, 50):
        cuts = parts.cut(size, of)
        with (tmp_path / "f").open("rb") as file:
            read = [parts.Piece(file, cut).read() for cut in cuts]
        assert b"".join(read) == data and len(cuts) == of
        assert max(map(len, read)) - min(map(len, read)) <= 1


def test_memory_stays_flat(tmp_path, pem, book, key):
    """18 MiB and 40 MiB, encrypted: the difference in peak memory is no piece of the file's size."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tasks.backups.mail import Account\n"
        "from tasks.backups.posted import Book\nfrom tests.tasks.backups import posting\n"
        "from blocks.registry import open_engine\nfrom sqlalchemy import make_url\n"
        "port, ca, url, row, path, age, size = sys.argv[1:]\n"
        "account = Account('localhost', int(port), 'STARTTLS', *sys.stdin.read().split(), ca)\n"
        "book = Book(open_engine(make_url(url)), int(row))\n"
        "encrypted = posting.post('a@example.org', age=(age,))\n"
        "import pyrage, stamina, ssl\n"
        "def seen(name): return int(Path('/proc/self/status').read_text().split(name)[1].split()[0])\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"  # the peak begins anew
        "before = seen('VmRSS:')\n"
        "came = posting.deliver(account, encrypted, book, (posting.manifest(int(size)), Path(path)))\n"
        "print(came.sentence, file=sys.stderr)\n"
        "print(seen('VmHWM:') - before)\n"
    )
    added = []
    with Hole(pem) as port:
        for size in (18 * 2**20, 40 * 2**20):
            _, path = _backup(tmp_path, b"")
            with path.open("wb") as file:
                file.truncate(size)
            row = posting.row_of(book.engine)
            arguments = [str(port), str(pem[0]), str(book.engine.url), str(row), str(path), key.public, str(size)]
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments], check=False,
                input=f"{USER} {PASSWORD}", capture_output=True, text=True, cwd=Path(__file__).parents[3],
            )  # fmt: skip
            assert "mailed to" in done.stderr, done.stderr
            added.append(int(done.stdout) / 1024)
    print("MiB that mailing added to peak memory, at 18 and 40 MiB:", added)
    assert max(added) <= 12, added


class Hole:
    """A mail server that says yes and keeps nothing, so that it costs this process no memory."""

    def __init__(self, pem) -> None:
        import ssl

        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pem[1], pem[2])

    def __enter__(self) -> int:
        import socket

        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return self._listener.getsockname()[1]

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._talk(connection)
            except OSError:
                continue

    def _talk(self, connection) -> None:
        connection.sendall(b"220 hole\r\n")
        file = connection.makefile("rb")
        while line := file.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                connection.sendall(b"250-hole\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 SIZE 200000000\r\n")
            elif verb == b"STAR":
                connection.sendall(b"220 go\r\n")
                connection = self._context.wrap_socket(connection, server_side=True)
                file = connection.makefile("rb")
            elif verb == b"AUTH":
                connection.sendall(b"235 ok\r\n")
            elif verb == b"DATA":
                connection.sendall(b"354 go\r\n")
                while file.readline() != b".\r\n":
                    pass
                connection.sendall(b"250 gone\r\n")
            elif verb == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                connection.close()
                return
            else:
                connection.sendall(b"250 ok\r\n")
