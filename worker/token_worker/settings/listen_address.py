"""The form of an address to listen on: ``HOST:PORT``.

HOST is a name, an IPv4 address, or an IPv6 address in brackets, as in ``[::]:9200``. Settings and options of commands
share this one form. ``[::]`` stands for all addresses of the machine, those of IPv4, too.
"""

import ipaddress
import re
from typing import Final, NamedTuple

EXPECTED: Final = "HOST:PORT, such as 127.0.0.1:9200, or [::]:9200 for all addresses"
"""The sentence of an error that refuses another form."""

MAX_PORT: Final = 65535

_FORM: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]/@]+)):(?P<port>[0-9]{1,5})")


class ListenAddress(NamedTuple):
    """An address to listen on.

    Attributes:
        host: a name, or an IP address without brackets.
        port: a number up to 65535. 0 lets the system choose a port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "ListenAddress":
        """Read ``HOST:PORT``.

        Raises:
            ValueError: the text has another form. The message is a sentence for people.
        """
        found = _FORM.fullmatch(text)
        if found is None or int(found["port"]) > MAX_PORT:
            raise ValueError(_problem(text))
        if found["six"] is not None:
            try:
                ipaddress.IPv6Address(found["six"])
            except ValueError:
                raise ValueError(f"between the brackets is no IPv6 address; expected {EXPECTED}") from None
        return cls(found["six"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        """Return the address in the form that ``parse`` reads."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _problem(text: str) -> str:
    """Say what to write in place of a text that is refused. The text itself is not part of it."""
    if text.count(":") > 1 and "[" not in text:
        return f"an IPv6 address needs brackets; expected {EXPECTED}"
    port = text.rpartition(":")[2]
    if port.isascii() and port.isdigit() and int(port) > MAX_PORT:
        return f"the port is above {MAX_PORT}; expected {EXPECTED}"
    return f"expected {EXPECTED}"
