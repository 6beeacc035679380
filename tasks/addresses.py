"""What an address on the network means. Pure."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "127.0.0.1.example.org", "10.0.0.1")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
