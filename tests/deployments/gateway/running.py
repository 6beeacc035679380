"""The gateway as a process of a test."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[3]


@contextmanager
def running_gateway(port: int, log: Path, api_url: str) -> Iterator[str]:
    """Start the gateway on loopback with its output in ``log``, wait until it serves, stop it afterwards."""
    base = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.gateway", "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "GATEWAY_URL": base, "PREFECT_API_URL": api_url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(200):
                assert process.poll() is None, log.read_text()
                try:
                    httpx.get(f"{base}/health", timeout=5)
                    break
                except httpx.ConnectError:
                    time.sleep(0.2)
            yield base
        finally:
            process.terminate()
            process.wait(timeout=15)
