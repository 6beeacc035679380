"""How the flows are put to work: bootstrap, the one-machine stack, the gateway."""

import logging

# Prefect reads .env dozens of times, and python-dotenv warns of a bad line each time; bootstrap names it, once.
logging.getLogger("dotenv.main").setLevel(logging.ERROR)
