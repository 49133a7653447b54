"""Cases of ``email-safe``. The judge is email-validator, which refuses domains that can receive no mail."""

from judge.case import Case
from judge.kinds.email_domain import address, is_address

CASES = [
    Case("email-safe", address, lambda text: text.count("@"), judge=is_address, refused=True),
]
