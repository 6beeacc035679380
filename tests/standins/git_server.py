"""A git repository behind HTTP on 127.0.0.1: git's own http-backend (as GitHub speaks), or plain files."""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_WHO = {
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


class Repository:
    """A bare repository in ``folder``, and the work tree that is committed to it."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.bare = folder / "tree", folder / "served" / "zero.git"
        self.tree.mkdir(parents=True)
        self._git("init", "-q", "-b", "staging", ".")
        subprocess.run(["git", "init", "-q", "--bare", "-b", "staging", str(self.bare)], check=True)

    def commit(self, files: Mapping[str, str], branch: str = "staging", links: Mapping[str, str] | None = None) -> str:
        """Commit ``files`` and symbolic ``links`` in the place of everything before; the commit's name."""
        self._git("checkout", "-q", "-B", branch)
        for path in self.tree.rglob("*"):
            if ".git" not in path.parts and (path.is_file() or path.is_symlink()):
                path.unlink()
        for name, text in files.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text)
        for name, target in (links or {}).items():
            (self.tree / name).symlink_to(target)
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", "x")
        self._git("push", "-q", "-f", str(self.bare), f"HEAD:{branch}")
        subprocess.run(["git", "-C", str(self.bare), "update-server-info"], check=True)
        return self._git("rev-parse", "HEAD").strip()

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.tree), *arguments],
            env={**os.environ, **_WHO},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout


class _Smart(BaseHTTPRequestHandler):
    """git http-backend as CGI."""

    def __init__(self, root: Path, *others) -> None:  # type: ignore[no-untyped-def]
        self.root = root
        super().__init__(*others)

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().split("\r\n")]
        status = next((value for name, _, value in lines if name == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for name, _, value in lines:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(repository: Repository, smart: bool = True) -> Iterator[str]:
    """The repository's URL while it is served."""
    root = repository.bare.parent
    handler = partial(_Smart, root) if smart else partial(_Files, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/zero.git"
        finally:
            server.shutdown()
            thread.join()
