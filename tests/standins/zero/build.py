"""Make the image of the Zero stand-in without any registry: ``python -m tests.standins.zero.build [tag]``.

On Linux it is a tar of the running interpreter, its standard library, psycopg and the shared libraries that these need
(``ldd``), imported as an image: about two seconds, no base image. Elsewhere (a laptop with Docker Desktop) the libraries
of the host would not run in a container, so ``docker build`` makes it from python:3.11-slim. An image that was made from the
same content is kept.
"""

import hashlib
import importlib.metadata
import io
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LABEL = "zero-fleet.standin"
HERE = Path(__file__).parent
PACKAGES = ("psycopg", "psycopg_binary", "psycopg_binary.libs", "typing_extensions.py")
NOT_NEEDED = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data",
    "distutils", "unittest", "asyncio.bak",
}  # fmt: skip
PROGRAMS = ("/bin/sh", "/usr/bin/env", "/bin/cat", "/bin/sleep")
"""So that ``docker exec … env`` and ``docker exec … sh`` work as an operator expects."""
DOCKERFILE = """\
FROM python:3.11-slim
RUN pip install --no-cache-dir "psycopg[binary]=={version}"
COPY server.py /app/server.py
LABEL {label}={content}
EXPOSE 3000
CMD ["python", "/app/server.py"]
"""


def build(tag: str, client: Any | None = None) -> str:
    """Make ``tag`` when there is none of this content; the image's id.

    Args:
        client: a docker.DockerClient; the environment's engine when None.
    """
    import docker

    engine = client or docker.from_env(timeout=120)
    content = fingerprint()
    try:
        found = engine.images.get(tag)
        if found.labels.get(LABEL) == content:
            return str(found.id)
    except docker.errors.ImageNotFound:
        pass
    if platform.system() == "Linux":
        _import(engine, tag, content)
    else:
        _docker_build(engine, tag, content)
    return str(engine.images.get(tag).id)


def fingerprint() -> str:
    """A hash of everything that the image is made from."""
    parts = [
        (HERE / "server.py").read_text(),
        Path(__file__).read_text(),
        sys.version,
        str(_interpreter()),
        importlib.metadata.version("psycopg"),
        platform.system(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _interpreter() -> Path:
    return Path(sys.executable).resolve()


TAG = f"zero-standin:{fingerprint()}"
"""Named after its content, so that two checkouts on one engine do not move a tag from under each other."""


def _import(engine: Any, tag: str, content: str) -> None:
    repository, _, version = tag.rpartition(":")
    with tempfile.TemporaryFile() as spool:
        _write(spool)
        spool.seek(0)
        changes = [
            f'CMD ["{_interpreter()}", "-s", "/app/server.py"]',
            "ENV PYTHONPATH=/app/lib",
            "ENV PATH=/usr/local/bin:/usr/bin:/bin",
            "WORKDIR /app",
            "EXPOSE 3000",
            f"LABEL {LABEL}={content}",
        ]
        # An iterator, since a file would be sent whole under a header that announces chunks.
        chunks = iter(lambda: spool.read(1 << 20), b"")
        answer = engine.api.import_image_from_stream(chunks, repository=repository, tag=version, changes=changes)
    if "error" in str(answer):
        raise RuntimeError(f"docker import refused the stand-in image: {answer[:500]}")


def _write(spool: Any) -> None:
    """The tar: every path once, folders that are links on the host (/bin, /lib64) as real folders."""
    with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for inside, outside in sorted(_content().items()):
            tar.add(os.path.realpath(outside), arcname=inside.lstrip("/"), recursive=False)
        for folder, mode in (("tmp", 0o1777), ("etc", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/nsswitch.conf", "hosts: files dns\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))


def _content() -> dict[str, str]:
    """Path inside the image to path on this machine."""
    files: dict[str, str] = {str(_interpreter()): str(_interpreter()), "/app/server.py": str(HERE / "server.py")}
    for kind in ("stdlib", "platstdlib"):
        # In a virtual environment platstdlib is a folder of it; the interpreter's own is what it was made from.
        root = Path(sysconfig.get_path(kind, vars={"platbase": sys.base_exec_prefix, "base": sys.base_prefix}))
        files |= {str(path): str(path) for path in _files(root)}
    site = Path(importlib.metadata.distribution("psycopg").locate_file("")).resolve()
    for package in PACKAGES:
        for path in _files(site / package):
            files[f"/app/lib/{path.relative_to(site)}"] = str(path)
    files |= {program: program for program in PROGRAMS if Path(program).exists()}
    binaries = [outside for inside, outside in files.items() if inside in PROGRAMS or ".so" in Path(outside).name]
    for library in _libraries([str(_interpreter()), *binaries]):
        if not library.startswith(str(site)):  # those find each other by $ORIGIN
            files[library] = library
    return files


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_NEEDED and not name.startswith("config-")]
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not name.endswith((".a", ".opt-1.pyc", ".opt-2.pyc")):
                yield path


def _libraries(binaries: list[str]) -> set[str]:
    """What the dynamic linker would load for ``binaries``, and the name service's modules, which it loads by name."""
    text = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False, timeout=60).stdout
    found = set(re.findall(r"(?:=> |^\s)(/\S+) \(0x", text, re.MULTILINE))
    for library in list(found):
        if Path(library).name.startswith("libc.so"):
            found |= {str(path) for path in Path(library).parent.glob("libnss_[df]*.so.2")}
    return found


def _docker_build(engine: Any, tag: str, content: str) -> None:
    text = DOCKERFILE.format(version=importlib.metadata.version("psycopg"), label=LABEL, content=content)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(text)
        Path(folder, "server.py").write_text((HERE / "server.py").read_text())
        engine.images.build(path=folder, tag=tag, rm=True)


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else TAG
    print(name, build(name))
