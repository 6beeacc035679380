"""``python -m tests.standins.smtp``: the SMTP stand-in as a program. It ends with its parent, or on SIGTERM."""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
from pathlib import Path

from tests.standins.smtp.server import Post, serve


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m tests.standins.smtp", description="A stand-in for a mail server.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cert", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--maildir", type=Path, required=True)
    parser.add_argument("--size", type=int, default=35_882_577, help="limit in bytes (Gmail's)")
    parser.add_argument("--outlive-parent", action="store_true", help="go on when the starting process ends")
    given = parser.parse_args()
    if not given.outlive_parent:
        _die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # at INFO it prints what clients send, logins included
    asyncio.run(_serve(given))


async def _serve(given: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    post = Post(given.user, given.password_file.read_text().strip(), given.maildir)
    server = await serve(post, given.port, given.cert, given.key, given.size)
    logging.info("stand-in for SMTP on 127.0.0.1:%d, mails in %s", given.port, given.maildir)
    await stopped.wait()
    server.close()


def _die_with_parent() -> None:
    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except AttributeError:  # not Linux
        return
    if os.getppid() != parent:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
