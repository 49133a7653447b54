"""Cases of ``uuid``. The judge is the standard library: tokens are UUIDs of version 8."""

from random import Random
from uuid import RFC_4122, UUID

from judge.case import Case


def any_form(random: Random) -> str:
    """Make a UUID of version 4, in one of its forms."""
    text = str(UUID(int=random.getrandbits(128), version=4))
    return random.choice(["", "", "urn:uuid:"]) + random.choice([text, text, text.upper()])


def is_version_8(text: str) -> bool:
    """Judge whether a text is a UUID of version 8."""
    uuid = UUID(text)
    return uuid.variant == RFC_4122 and uuid.version == 8


def kept(text: str) -> object:
    """Return the length of a UUID, whether it is a URN, and whether it is in upper case."""
    return len(text), text.startswith("urn:uuid:"), text[-36:].isupper()


CASES = [
    Case("uuid", any_form, kept, judge=is_version_8, accepted=True),
    Case("uuid", any_form, kept, {"refuse_tokens": True}, judge=is_version_8, accepted=True, refused=True),
]
