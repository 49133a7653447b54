"""Options without an effect are refused, so that no user believes that a filter or a limit was in force."""

import pytest
from click.testing import CliRunner

from token_worker.cli.app import app

TOKENS = ("--type=email", "--older-than=9", "--state=disabled", "--value", "--token")


@pytest.mark.parametrize(
    "arguments",
    [
        *(("tokens", command, "shop-frontend", option) for command in ("verify", "reencrypt") for option in TOKENS),
        ("tokens", "verify", "shop-frontend", "--dry-run"),
        ("tokens", "verify", "shop-frontend", "--min-age-seconds=0"),
        ("keys", "destroy", "shop-frontend_storage_sym.old/2026-01-31T08:15:30", "--restore", "--acra-restarted"),
        ("keys", "destroy", "shop-frontend_storage_sym.old/2026-01-31T08:15:30", "--zone"),
        ("keys", "destroy", "shop-frontend_storage_sym.old/2026-01-31T08:15:30", "--confirm=shop-frontend"),
        ("keys", "destroy", "shop-frontend", "--last", "--acra-restarted"),
        ("keys", "destroy", "shop-frontend", "--last", "--restore", "--confirm=shop-frontend"),
        ("keys", "index", "--all", "--zone"),
        ("keys", "index", "shop-frontend", "--all"),
        ("keys", "rewrap", "--new-master-key", "--workers-have-both"),
        ("lag", "--watch", "--max-lag=1"),
        ("lag", "--serve=127.0.0.1:1", "--max-age-seconds=1"),
        ("lag", "--serve=127.0.0.1:1", "--json"),
        ("lag", "--serve=127.0.0.1:1", "--watch"),
        ("replay", "--forget", "--rate=1"),
        ("replay", "--forget", "--no-wait"),
        ("replay", "--forget", "--json"),
        ("replay", "--dead-letters", "--force"),
        ("replay", "--from=2026-01-31", "--to=2026-01-30"),
        ("file", "tokenize", "no-such.csv", "out.csv", "--suggest", "--column=a=str"),
        ("file", "detokenize", "no-such.csv", "out.csv", "--column=a=str", "--inconsistent"),
        ("request", "detokenize", "--type=str", "--client=shop-frontend", "--inconsistent"),
        ("request", "detokenize", "--type=str", "--client=shop-frontend", "--format=pan"),
    ],
    ids=" ".join,
)
def test_option_without_effect_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    """An option that the command would ignore ends it with exit status 2, before any server is asked."""
    done = CliRunner().invoke(app, [*arguments], env={"TOKEN_WORKER_STREAMS_URL": "redis://127.0.0.1:1/0"})
    assert done.exit_code == 2, done.output
    assert "--" in done.output
    assert "Traceback" not in done.output
