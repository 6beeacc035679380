"""A spec's ``host_ip``: the address of its Docker host that a client's port is published on. Pure."""

_EVERYWHERE = frozenset(("", "0.0.0.0", "::", "127.0.0.1", "::1"))  # noqa: S104


def on_every_machine(host_ip: str) -> bool:
    """Whether ``host_ip`` stands for any address or is the loopback one, so that it does not lead to one certain machine.

    >>> on_every_machine("0.0.0.0"), on_every_machine("::1"), on_every_machine("10.0.0.5")
    (True, True, False)
    """
    return host_ip in _EVERYWHERE
