"""``token-worker request`` says which type or format was meant."""

import pytest
from click.testing import CliRunner

from token_worker.cli.app import app


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tokenize", "--type=pan"], "pan is a format, not a type: --format pan"),
        (["detokenize", "--type=pan"], "pan is a format, not a type: --type str"),
        (["tokenize", "--format=email"], "email is a type, not a format: --type email"),
        (["tokenize", "--format=email", "--type=str"], "email is a type, not a format: --type email"),
        (["tokenize", "--format=ibn"], "no format ibn, the nearest is iban; types: int32, int64, str, bytes, email;"),
        (["tokenize", "--format=ours"], "no format ours; types: int32, int64, str, bytes, email; formats: date, "),
        (["tokenize", "--format=ours"], "a format that only the workers know needs --type"),
        (["tokenize", "--type=emial"], "no type emial, the nearest is email; types: int32, "),
        (["tokenize", "--type=\x1b[31m"], "no type ?[31m; types: int32, "),
        (["tokenize"], "--type or --format is needed; types: int32, "),
        (["detokenize"], "--type is needed; types: int32, "),
    ],
)
def test_wrong_types_and_formats_are_told_with_the_right_ones(arguments: list[str], expected: str) -> None:
    """A type beside --format, a format beside --type, and typos: exit status 2, before any server is asked."""
    environment = {"TOKEN_WORKER_STREAMS_URL": "redis://127.0.0.1:1/0"}
    done = CliRunner().invoke(app, ["request", *arguments, "--client=shop-frontend"], env=environment)
    assert done.exit_code == 2
    assert expected in " ".join(done.output.split())
