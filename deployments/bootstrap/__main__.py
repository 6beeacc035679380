"""``python -m deployments.bootstrap``: settings from the environment and ``.env`` into Prefect blocks."""

import argparse
import asyncio
import sys
from pathlib import Path

from tasks.errors import FleetError


def main(arguments: list[str] | None = None) -> int:
    """Run bootstrap from a terminal.

    Args:
        arguments: the command line without the program's name; None takes the process's.

    Returns:
        0 when everything was done (or shown), 1 when something was refused or failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m deployments.bootstrap",
        description="Put the settings of the environment and of .env into Prefect blocks. See docs/configuration.md.",
    )
    parser.add_argument("--env-file", type=Path, default=None, help="a .env file (default: .env, where there is one)")
    parser.add_argument("--overwrite", action="store_true", help="also overwrite blocks that were edited in the UI")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    options = parser.parse_args(arguments)
    if options.env_file and not options.env_file.is_file():
        print(f"There is no file {options.env_file}; correct --env-file.", file=sys.stderr)
        return 1
    # Prefect is imported only now: a wrong option is answered at once.
    from deployments.bootstrap.environment import exposed, read_values, unreadable
    from deployments.bootstrap.run import bootstrap

    try:
        env_file = options.env_file or Path(".env")
        values = read_values(env_file)
        refused = unreadable(env_file)
        report = asyncio.run(bootstrap(values, overwrite=options.overwrite, dry_run=options.dry_run, refused=refused))
    except FleetError as failed:
        print(failed, file=sys.stderr)
        return 1
    print("\n".join([*(f"Note: {note}" for note in exposed(env_file)), *report.lines()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
