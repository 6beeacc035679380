"""``python -m deployments.gateway``: serve the gateway."""

import argparse
import logging

import uvicorn

from blocks.installation import installation
from deployments.gateway.app import build_app
from tasks.errors import FleetError
from tasks.gmail.endpoints import redirect_uri


def main() -> None:
    """Serve on the address given; ends by TERM or INT."""
    parser = argparse.ArgumentParser(prog="python -m deployments.gateway", description="Zero Fleet's gateway.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (behind a proxy: keep the default)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # httpx logs addresses at INFO, with the names of handshakes in them.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        callback = redirect_uri(installation().gateway_url)
    except FleetError as error:
        parser.exit(2, f"{error}\n")
    logging.getLogger("zero_fleet.gateway").info("Google's redirect URI is %s", callback)
    # No access log: it would hold the callback's query. No proxy headers: nothing is taken from them.
    uvicorn.run(
        build_app(), host=given.host, port=given.port, access_log=False, server_header=False, proxy_headers=False
    )


if __name__ == "__main__":
    main()
