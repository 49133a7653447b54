"""Addresses to listen on have one form, with brackets around IPv6."""

import pytest

from token_worker.settings.listen_address import ListenAddress


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9200", "127.0.0.1", 9200),
        ("localhost:0", "localhost", 0),
        ("worker-1.internal:65535", "worker-1.internal", 65535),
        ("[::]:9200", "::", 9200),
        ("[::1]:0", "::1", 0),
        ("[2001:db8::a]:80", "2001:db8::a", 80),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, host: str, port: int) -> None:
    """An address is read into host and port, and is written as it was read."""
    address = ListenAddress.parse(text)
    assert address == (host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected HOST:PORT"),
        ("9200", "expected HOST:PORT"),
        (":9200", "expected HOST:PORT"),
        ("localhost:", "expected HOST:PORT"),
        ("localhost:http", "expected HOST:PORT"),
        ("user@localhost:9200", "expected HOST:PORT"),
        ("localhost:٩٢٠٠", "expected HOST:PORT"),
        ("[::1]", "expected HOST:PORT"),
        ("localhost:65536", "the port is above 65535"),
        ("::1:9200", "an IPv6 address needs brackets"),
        ("[1.2.3.4]:9200", "between the brackets is no IPv6 address"),
        ("[:::]:9200", "between the brackets is no IPv6 address"),
    ],
)
def test_another_form_is_refused_in_words(text: str, why: str) -> None:
    """A text of another form is refused with the reason and the form that is expected, and is not quoted."""
    with pytest.raises(ValueError, match=f"^{why}") as refused:
        ListenAddress.parse(text)
    assert "HOST:PORT" in str(refused.value)
