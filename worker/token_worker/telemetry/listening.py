"""Opens the sockets of probes, metrics and pages, on IPv4 and IPv6."""

import errno
import os
import socket
from typing import Final

from token_worker.errors import SettingsError
from token_worker.settings.listen_address import ListenAddress

BACKLOG: Final = 128
"""Most connections that wait to be accepted."""

_NO_IPV6: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""Errors of a machine that has no IPv6."""


def listen(address: ListenAddress, option: str) -> socket.socket:
    """Listen on an address.

    Args:
        address: ``::`` is all addresses, and those of IPv4 alone on a machine without IPv6. Of a name with several
            addresses it is one, of IPv4 if there is one. Port 0 lets the system choose.
        option: name of the option that holds the address, for the error.

    Raises:
        SettingsError: the address is in use or not of this machine.
    """
    try:
        return _listen(address)
    except (socket.gaierror, UnicodeError):
        why = "no address of that name"
    except OSError as error:
        why = os.strerror(error.errno or errno.EADDRNOTAVAIL)
    raise SettingsError(f"{option}: cannot listen on {address} ({why}); set a free address of this machine")


def address_of(listening: socket.socket) -> ListenAddress:
    """Return the address that a socket listens on, with the port that the system chose."""
    host, port = listening.getsockname()[:2]
    return ListenAddress(host, port)


def _listen(address: ListenAddress) -> socket.socket:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    is_everywhere = address.host == "::"
    try:
        return socket.create_server(
            place, family=family, backlog=BACKLOG, dualstack_ipv6=is_everywhere and socket.has_dualstack_ipv6()
        )
    except OSError as error:
        if not is_everywhere or error.errno not in _NO_IPV6:
            raise
        return socket.create_server(("0.0.0.0", address.port), backlog=BACKLOG)  # noqa: S104 - all were asked for
