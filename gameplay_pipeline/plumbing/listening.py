"""Where a server of this project listens."""

import ipaddress
import socket

from gameplay_pipeline.plumbing.errors import UserError

TOKEN = "RANNI_TOKEN"  # noqa: S105 (the name of the variable that holds it)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Opens a socket that listens.

    Args:
        host: the address to listen at.
        port: 0 for any that is free.

    Raises:
        UserError: it can't be had, such as a port that another program has.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--port {port}: can't listen at {host}: {error}; choose another port, or 0 for any "
            "that is free"
        ) from error
