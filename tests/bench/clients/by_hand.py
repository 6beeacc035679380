"""What an operator's shell script does for a new client: psql, docker and curl, and nothing else."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = r"""
set -eu
psql() { command "$PSQL" -qX -v ON_ERROR_STOP=1 "$@"; }
psql -d postgres \
  -c "CREATE ROLE $NAME LOGIN PASSWORD '$SECRET'" \
  -c "CREATE DATABASE $NAME TEMPLATE template0 ENCODING 'UTF8'" \
  -c "REVOKE ALL ON DATABASE $NAME FROM PUBLIC" \
  -c "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE $NAME TO $NAME"
psql -d "$NAME" -c "REVOKE ALL ON SCHEMA public FROM PUBLIC" -c "GRANT USAGE, CREATE ON SCHEMA public TO $NAME"
docker network inspect "$NETWORK" >/dev/null 2>&1 || docker network create "$NETWORK" >/dev/null
docker run -d --init --name "$NAME" $LABELS --network "$NETWORK" --add-host host.docker.internal:host-gateway \
  -m 1536m --pids-limit 512 --restart unless-stopped -p "127.0.0.1:$PORT:3000" \
  -e PORT=3000 -e NODE_ENV=production -e DATABASE_URL="postgresql://$NAME:$SECRET@host.docker.internal:$PGPORT/$NAME" \
  -e BETTER_AUTH_SECRET="$SECRET" -e BETTER_AUTH_URL="http://localhost:$PORT" \
  -e GOOGLE_CLIENT_ID=x -e GOOGLE_CLIENT_SECRET=x "$IMAGE" >/dev/null
started=$(date +%s.%N)
until curl -sf -m 5 -o /dev/null "http://127.0.0.1:$PORT/health"; do
  tries=$((${tries:-0} + 1))
  [ "$tries" -lt 1200 ] || { docker logs --tail 1 "$NAME" >&2; exit 1; }
  sleep 0.05
done
echo "waited $started $(date +%s.%N)"
"""


@dataclass(frozen=True)
class Client:
    """A client that the script makes."""

    name: str
    port: int
    secret: str


def start(client: Client, server: dict[str, Any], psql: Path, image: str, network: str, labels: dict[str, str]) -> Any:
    """The script, running.

    Args:
        server: the block ``postgres-server``'s data.
        labels: of the container.

    Raises:
        RuntimeError: docker's or curl's program is not there.
    """
    for program in ("docker", "curl"):
        if not shutil.which(program):
            raise RuntimeError(f"the script by hand needs {program}")
    # Not the environment of the stack: an operator's shell has PATH, HOME and what psql reads.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PSQL": str(psql),
        "PGHOST": str(server["host"]),
        "PGPORT": str(server["port"]),
        "PGUSER": str(server["username"]),
        "PGPASSWORD": str(server["password"]),
        "NAME": client.name,
        "SECRET": client.secret,
        "PORT": str(client.port),
        "IMAGE": image,
        "NETWORK": network,
        "LABELS": " ".join(f"--label {name}={value}" for name, value in labels.items()),
    }
    return subprocess.Popen(
        ["/bin/sh", "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def waited(script: Any) -> float:
    """Wait for the script's end; the seconds that it waited for the service.

    Raises:
        RuntimeError: it failed.
    """
    try:
        said, wrong = script.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        script.kill()
        raise RuntimeError("the script by hand had not ended after 300 s") from None
    if script.returncode:
        raise RuntimeError(f"the script by hand failed: {wrong.strip()[-200:]}")
    _, began, ended = said.strip().splitlines()[-1].split()
    return float(ended) - float(began)
