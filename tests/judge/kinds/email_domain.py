"""Cases of ``email-domain``. The judge is email-validator: tokens are addresses."""

from random import Random

from email_validator import EmailNotValidError, validate_email

from judge.case import Case


def address(random: Random) -> str:
    """Make an address with a name of 4 to 20 characters."""
    name = "".join(random.choices("abcdefghijklmnopqrstuvwxyzABC0123456789_", k=random.randint(4, 20)))
    return f"{name}@{random.choice(['example.org', 'mail.example.com', 'EXAMPLE.net', 'müller.de'])}"


def is_address(text: str) -> bool:
    """Judge whether a text is an address."""
    try:
        validate_email(text, check_deliverability=False)
    except EmailNotValidError:
        return False
    return True


CASES = [
    Case(
        "email-domain",
        address,
        lambda text: (len(text), text.partition("@")[2]),
        judge=is_address,
        accepted=True,
    )
]
