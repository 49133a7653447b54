"""Settings: the sources of options, their defaults, and the messages about wrong ones."""

import base64
from pathlib import Path
from typing import Any

import pytest
from rich.pretty import pretty_repr

from token_worker.contract.messages import Op
from token_worker.errors import SettingsError
from token_worker.redis import address as redis_settings
from token_worker.redis.address import parse
from token_worker.settings import load
from token_worker.settings.options import Settings, describe
from token_worker.streams.routes import DEFAULT_ROUTES, Route
from token_worker.tokens.formats import builtin_formats
from token_worker.tokens.formats.template_syntax import VALUE_CHARACTERS

CANARY = "hunter2canary"


def problems(environ: dict[str, str], file: Path | None = None) -> list[str]:
    """The problems that ``load`` reports for these settings, line by line."""
    with pytest.raises(SettingsError) as caught:
        load(environ, file)
    assert caught.value.__context__ is None  # else a traceback shows the library's text, which quotes the value
    return str(caught.value).splitlines()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "worker.toml"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{CANARY}\n")
    return path


class TestSources:
    def test_defaults_serve_one_redis_on_this_machine(self) -> None:
        """With nothing set, there are working defaults for one Redis on this machine."""
        settings = load({})

        assert settings.streams.url == settings.keys.url == settings.tokens.url == "redis://127.0.0.1:6379/0"
        assert settings.routes == DEFAULT_ROUTES
        assert (settings.group, settings.keys_folder, settings.keys_source) == ("token-workers", ".acrakeys", "redis")
        assert (settings.batch_size, settings.max_items, settings.max_value_bytes) == (500, 1000, 65536)
        assert (settings.max_request_bytes, settings.claim_idle_ms, settings.max_deliveries) == (1048576, 30000, 5)
        assert (settings.drain_seconds, settings.log_level) == (25, "info")
        assert (settings.master_key_source, settings.master_key, settings.vault) == ("env", None, None)

    def test_environment_wins(self, config: Path) -> None:
        """The environment goes before the file, option by option."""
        config.write_text('batch_size = 7\nmax_items = 8\ngroup = "g"\n')

        settings = load({"TOKEN_WORKER_BATCH_SIZE": "9"}, config)

        assert (settings.batch_size, settings.max_items, settings.group) == (9, 8, "g")

    def test_names_of_openbao_win(self, config: Path) -> None:
        """``BAO_…`` is the same setting as ``VAULT_…``, and goes before it, as on OpenBao's command line."""
        config.write_text('vault_namespace = "file"\n')
        environ = {"VAULT_ADDR": "http://vault", "BAO_ADDR": "http://bao", "VAULT_CAPATH": "/a", "BAO_CAPATH": ""}

        vault = load({**environ, "BAO_NAMESPACE": "n", "HOME": "/nowhere"}, config).vault

        assert vault is not None
        assert (vault.address, vault.ca_path, vault.namespace) == ("http://bao", "/a", "n")

    def test_empty_is_unset(self, config: Path) -> None:
        """A variable that is empty counts as unset, and surrounding white space as nothing."""
        config.write_text("batch_size = 7\n")

        settings = load({"TOKEN_WORKER_BATCH_SIZE": "", "TOKEN_WORKER_GROUP": " g\n"}, config)

        assert (settings.batch_size, settings.group) == (7, "g")

    def test_shared_names_in_the_file(self, config: Path) -> None:
        """Options that Acra and Vault named stand in the file under these names."""
        config.write_text('vault_addr = "http://vault:8200"\nacra_master_key_file = "/k"\n')

        settings = load({}, config)

        assert settings.vault is not None
        assert (settings.vault.address, settings.master_key_file) == ("http://vault:8200", "/k")

    def test_consumers_differ(self) -> None:
        """Two processes, or two runs of one, never share a consumer name by default."""
        assert load({}).consumer != load({}).consumer

    def test_every_option_is_described(self) -> None:
        """The table for people has every option under its variable, each with a meaning."""
        lines = {name: (default, meaning) for name, default, meaning in describe()}

        assert lines["TOKEN_WORKER_BATCH_SIZE"] == ("`500`", "most entries in a batch")
        assert lines["VAULT_ADDR"][0] == "-"
        assert lines["TOKEN_WORKER_KEYS_URL"][0] == "the streams' Redis"
        assert "TOKEN_WORKER_{STREAMS,KEYS,TOKENS}_PASSWORD_FILE" in lines
        assert all(meaning for _, meaning in lines.values())


class TestRefusals:
    @pytest.mark.parametrize(
        ("variable", "value", "said"),
        [
            ("TOKEN_WORKER_BATCH_SIZE", "0", "expected a whole number from 1 to 10000, such as 500, the default"),
            ("TOKEN_WORKER_BATCH_SIZE", "many", "expected a whole number from 1 to 10000, such as 500, the default"),
            ("TOKEN_WORKER_BATCH_SIZE", "\udcff", "expected a whole number from 1 to 10000, such as 500, the default"),
            ("TOKEN_WORKER_CLAIM_IDLE_MS", "999", "expected a whole number from 1000 to 86400000, such as 30000,"),
            ("TOKEN_WORKER_KEYS_SOURCE", "file", "expected redis or vault"),
            ("TOKEN_WORKER_LOG_FORMAT", "null", "expected console or json"),
            ("TOKEN_WORKER_DURABILITY", "replicas:0", "expected server, fsync, or replicas:N with N from 1 to 9"),
            ("TOKEN_WORKER_DURABILITY", "fsyncs", "expected server, fsync, or replicas:N"),
            ("TOKEN_WORKER_GROUP", "a b", "expected at most 256 printable ASCII characters without spaces"),
            ("TOKEN_WORKER_VAULT_SECRET", "secret/", "expected mount/path, without a slash at either end"),
            ("VAULT_SKIP_VERIFY", "perhaps", "expected true or false"),
            ("VAULT_ADDR", "vault:8200", "expected http://host:port, https://host:port or unix:///path"),
            ("BAO_ADDR", "unix://socket", "expected http://host:port, https://host:port or unix:///path"),
            ("BAO_SKIP_VERIFY", "maybe", "expected true or false"),
            ("VAULT_API_TOKEN", "???", "expected the base64 of a token"),
            ("TOKEN_WORKER_KEYS_SOURCE", "vault", "vault needs its address; set VAULT_ADDR"),
            ("TOKEN_WORKER_MASTER_KEY_SOURCE", "vault", "vault needs its address; set VAULT_ADDR"),
            ("TOKEN_WORKER_STREAMS_KEY_FILE", "/none", "names a file that cannot be read (No such file or directory)"),
            ("TOKEN_WORKER_STREAMS_PASSWORD_FILE", "/none", "names a file that cannot be read (No such file"),
            (
                "TOKEN_WORKER_STREAMS_CA_FILE",
                __file__,
                "needs TLS; set TOKEN_WORKER_STREAMS_URL to a rediss:// address",
            ),
        ],
    )
    def test_wrong_value_is_refused_with_its_variable(self, variable: str, value: str, said: str) -> None:
        """A wrong value is refused with the variable, what is expected and what to set."""
        environ = {variable: value}
        if variable == "VAULT_API_TOKEN":
            environ["VAULT_ADDR"] = "http://vault"

        assert any(line.startswith(f"{variable}: {said}") for line in problems(environ))

    def test_all_problems_are_reported_together(self, config: Path) -> None:
        """All problems are reported together, those of the file with its name and the name used there."""
        config.write_text("batch_size = 0\nmax_items = true\n")

        expected = "expected a whole number from 1 to"
        assert problems({"TOKEN_WORKER_MAX_DELIVERIES": "x"}, config) == [
            f"TOKEN_WORKER_BATCH_SIZE (batch_size in {config}): {expected} 10000, such as 500, the default",
            f"TOKEN_WORKER_MAX_ITEMS (max_items in {config}): {expected} 10000, such as 1000, the default",
            f"TOKEN_WORKER_MAX_DELIVERIES: {expected} 1000, such as 5, the default",
        ]

    @pytest.mark.parametrize("name", [name for name, _, _ in describe()])
    def test_no_value_is_quoted(self, name: str, tmp_path: Path) -> None:
        """A value that is refused is not quoted, in whichever option a password was put by mistake."""
        value = f"\x01{CANARY}://{CANARY}@{CANARY}"
        config = tmp_path / "worker.toml"
        option = name.removeprefix("TOKEN_WORKER_").lower()
        config.write_text(f'{option} = ["{CANARY}", {{ a = "{CANARY}" }}]\n')

        assert CANARY not in "\n".join(problems({"TOKEN_WORKER_BATCH_SIZE": "0", name: value}))
        assert CANARY not in "\n".join(problems({}, config))

    def test_unknown_name_is_refused_with_the_nearest_one(self, config: Path) -> None:
        """An unknown name is refused with the nearest right one, in the file and in the environment."""
        config.write_text("batchsize = 7\n[vault_adr]\n")

        assert problems({"TOKEN_WORKER_STREAM_URL": "redis://x"}, config) == [
            f"{config}: there is no option 'batchsize'; the nearest is 'batch_size'",
            f"{config}: there is no option 'vault_adr'; the nearest is 'vault_addr'",
            "TOKEN_WORKER_STREAM_URL: there is no such option; the nearest is TOKEN_WORKER_STREAMS_URL",
        ]

    @pytest.mark.parametrize(
        "name",
        [
            "TOKEN_WORKER_SERVICE_HOST",
            "TOKEN_WORKER_SERVICE_PORT",
            "TOKEN_WORKER_SERVICE_PORT_METRICS",
            "TOKEN_WORKER_PORT",
            "TOKEN_WORKER_PORT_9090_TCP",
            "TOKEN_WORKER_PORT_9090_TCP_PROTO",
            "TOKEN_WORKER_PORT_9090_UDP_ADDR",
            "TOKEN_WORKER_METRICS_SERVICE_HOST",
            "TOKEN_WORKER_METRICS_PORT_9090_TCP_PORT",
        ],
    )
    def test_variables_that_kubernetes_makes_are_ignored(self, name: str) -> None:
        """Variables that Kubernetes makes for a Service of our name are no mistake of anybody's."""
        assert isinstance(load({name: "tcp://10.0.0.1:9090"}), Settings)

    @pytest.mark.parametrize(
        "name",
        ["TOKEN_WORKER_PORT_TCP", "TOKEN_WORKER_PORTS", "TOKEN_WORKER_SERVICE_HOSTS", "TOKEN_WORKER_PORT_9_TCP_X"],
    )
    def test_names_like_those_of_kubernetes_are_refused(self, name: str) -> None:
        """Names that only look like those are refused as any other."""
        assert problems({name: "x"})[0].startswith(f"{name}: there is no such option")

    def test_default_values_may_be_given(self) -> None:
        """The values that those options have by default may be given, too."""
        assert load({"TOKEN_WORKER_HTTP_ADDRESS": "off", "TOKEN_WORKER_DURABILITY": "server"})

    @pytest.mark.parametrize("address", ["9200", ":9200", "::1:9200", "[::1:9200", "127.0.0.1:70000", "[x]:1", "a b:1"])
    def test_address_of_another_form_is_refused_in_words(self, address: str) -> None:
        """An address to listen on that is none is refused with the name of the option and what to write."""
        [problem] = problems({"TOKEN_WORKER_HTTP_ADDRESS": address})
        assert problem.startswith("TOKEN_WORKER_HTTP_ADDRESS: ")
        assert problem.endswith("[::]:9200 for all addresses; or off")

    @pytest.mark.parametrize("durability", ["server", "fsync", "replicas:1", "replicas:9"])
    def test_durability_is_one_of_three(self, durability: str) -> None:
        """Durability is one of three words; ``replicas`` has a number."""
        assert load({"TOKEN_WORKER_DURABILITY": durability}).durability == durability

    def test_broken_file_is_refused_with_the_place_and_no_text(self, config: Path) -> None:
        """A file that is no TOML is refused with the place of the mistake and nothing of its text."""
        config.write_text(f'group = "g"\npassword = {CANARY}\n')

        (line,) = problems({}, config)

        assert line.startswith(f"{config}: expected TOML in UTF-8; the first mistake is at line 2, column ")
        assert CANARY not in line

    def test_missing_file_is_refused(self, config: Path) -> None:
        """A file that cannot be read is refused, as a worker without it would do something else."""
        (line,) = problems({}, config)

        assert line.startswith(f"{config}: cannot be read (No such file or directory)")


class TestRedis:
    def test_defaults_follow(self, secret: Path) -> None:
        """A default address is taken with the password and the TLS files that belong to it."""
        settings = load(
            {
                "TOKEN_WORKER_STREAMS_URL": "rediss://app@host:7000/2",
                "TOKEN_WORKER_STREAMS_PASSWORD_FILE": str(secret),
                "TOKEN_WORKER_STREAMS_CA_FILE": str(secret),
            }
        )

        assert (settings.streams.url, settings.streams.password) == ("rediss://app@host:7000/2", CANARY)
        assert settings.keys == settings.tokens == settings.streams

    def test_own_parts_win(self, secret: Path, tmp_path: Path) -> None:
        """A setting of one use replaces the part that comes with its default address."""
        other = tmp_path / "other"
        other.write_text("other\r\n")

        settings = load(
            {
                "TOKEN_WORKER_STREAMS_URL": "redis://:first@host",
                "TOKEN_WORKER_KEYS_PASSWORD_FILE": str(other),
                "TOKEN_WORKER_TOKENS_URL": "redis://tokens",
            }
        )

        assert (settings.streams.password, settings.keys.password, settings.tokens.password) == ("first", "other", None)
        assert settings.keys.url == settings.streams.url

    @pytest.mark.parametrize(
        ("given", "url", "password"),
        [
            ("redis://host", "redis://host", None),
            ("redis://app:p%40ss@host:1/3", "redis://app@host:1/3", "p@ss"),
            ("rediss://:pw@[::1]:1", "rediss://[::1]:1", "pw"),
            ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1", None),
            ("unix://app:pw@/run/redis.sock", "unix://app@/run/redis.sock", "pw"),
        ],
    )
    def test_password_is_taken_out_of_the_address(self, given: str, url: str, password: str | None) -> None:
        """A password is taken out of the address, so that the address can be shown."""
        streams = load({"TOKEN_WORKER_STREAMS_URL": given}).streams

        assert (streams.url, streams.password) == (url, password)
        assert streams.user == ("app" if "app" in given else None)

    @pytest.mark.parametrize(
        "url",
        [
            "host:6379",
            "http://host",
            "redis://",
            "redis:///0",
            "redis://host:0",
            "redis://host:99999",
            "redis://host:x",
            "redis://host/main",
            "redis://host/0?password=p",
            "redis://host/0#x",
            "redis://a b",
            "redis://[::1",
            "unix://",
            "unix:///",
            "unix://host/run/redis.sock",
            "unix:///run/redis.sock?password=p",
        ],
    )
    def test_ambiguous_address_is_refused(self, url: str) -> None:
        """An address that redis-py would read as something else is refused with the forms there are."""
        (line,) = problems({"TOKEN_WORKER_KEYS_URL": url})

        assert line.startswith("TOKEN_WORKER_KEYS_URL: expected redis://[user[:password]@]host[:port][/database]")

    @pytest.mark.parametrize(
        ("given", "url", "server", "nodes"),
        [
            ("redis+sentinel://a/main", "redis://a:26379/0", "main@a:26379", [("a", 26379)]),
            (
                "redis+sentinel://app:p%40ss@b:1,a/main/3",
                "redis://app@b:1/3",
                "main@b:1,a:26379",
                [("b", 1), ("a", 26379)],
            ),
            ("rediss+sentinel://:p%40ss@[::1]:1,[fe::2]/m.a-i_n/", "rediss://[::1]:1/0", None, None),
            ("redis+cluster://a,b:7000", "redis://a:6379/0", "a:6379,b:7000", [("a", 6379), ("b", 7000)]),
            ("rediss+cluster://app:p%40ss@127.0.0.1:1/", "rediss://app@127.0.0.1:1/0", "127.0.0.1:1", None),
            ("redis+cluster://app@a:1,[fe::1]:2", "redis://app@a:1/0", "a:1,[fe::1]:2", [("a", 1), ("fe::1", 2)]),
        ],
    )
    def test_addresses_of_sentinels_and_clusters_are_read(
        self, monkeypatch: pytest.MonkeyPatch, given: str, url: str, server: str | None, nodes: list[Any] | None
    ) -> None:
        """Addresses of Sentinels and clusters: a login of the servers, ports by default, IPv6 hosts in brackets."""
        monkeypatch.delattr(redis_settings, "urlsplit")  # of some Pythons it refuses some of them
        address = parse(given)

        assert address.kind == ("cluster" if "cluster" in given else "sentinel")
        assert address.at(address.nodes[0]).url == url
        assert address.at(address.nodes[0]).password == address.password == ("p@ss" if "p%40ss" in given else None)
        assert "p%40ss" not in address.url
        assert address.user == address.at(address.nodes[0]).user == ("app" if "app" in given else None)
        assert address.hosts == [node.host for node in address.nodes]
        assert server in (None, address.server)
        assert nodes is None or [*address.nodes] == nodes

    @pytest.mark.parametrize(
        "url",
        [
            "redis+sentinel://",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+sentinel:///main",
            "redis+sentinel://a,/main",
            "redis+sentinel://a:0/main",
            "redis+sentinel://a:65536/main",
            "redis+sentinel://a:x/main",
            "redis+sentinel://::1/main",
            "redis+sentinel://[a]/main",
            "redis+sentinel://a/main/x",
            "redis+sentinel://a/main/0/1",
            "redis+sentinel://a/ma in",
            "redis+sentinel://a/main?db=1",
            "redis+sentinel://a/main#x",
            "redis+sentinel://u:p@w@a,u:p@b/main",
            "rediss+cluster://",
            "rediss+cluster://a,",
            "rediss+cluster://a/1",
            "rediss+cluster://a?x",
            "rediss+cluster://a#",
        ],
    )
    def test_bad_addresses_of_several(self, url: str) -> None:
        """An address of Sentinels or of a cluster that is wrong is refused with the form that it should have."""
        (line,) = problems({"TOKEN_WORKER_STREAMS_URL": url, "TOKEN_WORKER_KEYS_URL": "redis://keys"})

        kind, end = ("cluster", ", or rediss+") if "cluster" in url else ("sentinel", "/service[/database], or")
        form = f"redis+{kind}://[user[:password]@]host[:port][,host[:port]…]{end}"
        assert line.startswith(f"TOKEN_WORKER_STREAMS_URL: expected {form}")

    def test_sentinels_may_have_a_password(self, secret: Path) -> None:
        """The password is only for Sentinels. It goes along with a default address, and needs Sentinels."""
        option = "TOKEN_WORKER_STREAMS_SENTINEL_PASSWORD_FILE"
        environ = {"TOKEN_WORKER_STREAMS_URL": "rediss+sentinel://app:pw@a/main", option: str(secret)}
        environ["TOKEN_WORKER_STREAMS_CA_FILE"] = str(secret)

        keys = load(environ).keys

        assert (keys.at(keys.nodes[0]).password, keys.sentinel(keys.nodes[0]).password) == ("pw", CANARY)
        assert keys.sentinel(keys.nodes[0]).url == "rediss://a:26379/0"
        assert keys.sentinel(keys.nodes[0]).ca_file == keys.at(keys.nodes[0]).ca_file == str(secret)
        assert CANARY not in repr(keys)
        (line,) = problems({option: str(secret)})
        assert line.startswith(
            f"{option}: needs Sentinels; set TOKEN_WORKER_STREAMS_URL to a redis+sentinel:// address"
        )

    @pytest.mark.parametrize(
        ("more", "refused"),
        [
            ({}, ["KEYS"]),
            ({"KEYS": "redis+cluster://b"}, ["KEYS"]),
            ({"KEYS": "redis://b", "TOKENS": "rediss+cluster://b"}, []),
            ({"KEYS": "redis+cluster://b", "TOKENS": "redis+cluster://b"}, ["KEYS"]),
            ({"KEYS": "redis+sentinel://b/main"}, []),
        ],
    )
    def test_keys_are_on_one_primary(self, more: dict[str, str], refused: list[str]) -> None:
        """A cluster can hold streams and tokens, and is not taken for the key storage by default either."""
        environ = {"STREAMS": "redis+cluster://a", **more}
        environ = {f"TOKEN_WORKER_{use}_URL": url for use, url in environ.items()}
        environ["TOKEN_WORKER_ROUTES"] = '[{"requests": "{t}:in", "responses": "{t}:out", "ops": ["tokenize"]}]'

        lines = problems({**environ, "TOKEN_WORKER_BATCH_SIZE": "0"})[1:]

        assert [line.partition("_URL: ")[0] for line in lines] == [f"TOKEN_WORKER_{use}" for use in refused]
        assert all("cannot be a cluster: Acra needs one primary" in line for line in lines)
        assert all(("of the streams by default" in line) is not ("KEYS" in more) for line in lines)

    @pytest.mark.parametrize(("layout", "refused"), [(None, 0), ("dense", 0), ("acra", 1)])
    def test_tokens_in_acras_layout_are_on_one_primary(self, layout: str | None, refused: int) -> None:
        """A cluster cannot hold tokens in Acra's layout. Without the setting, the record decides at the start."""
        environ = {"TOKEN_WORKER_KEYS_URL": "redis://b", "TOKEN_WORKER_TOKENS_URL": "redis+cluster://c"}
        environ |= {"TOKEN_WORKER_BATCH_SIZE": "0"} | ({"TOKEN_WORKER_LAYOUT": layout} if layout else {})

        lines = problems(environ)[1:]

        assert len(lines) == refused
        assert all(line.startswith("TOKEN_WORKER_TOKENS_URL: cannot be a cluster: Acra needs") for line in lines)

    def test_keys_from_vault_need_no_key_storage(self) -> None:
        """With the keys in Vault just the tokens need a server that is no cluster."""
        environ = {"TOKEN_WORKER_STREAMS_URL": "redis+cluster://a", "VAULT_ADDR": "http://vault"}
        environ |= {"TOKEN_WORKER_KEYS_SOURCE": "vault"}
        environ["TOKEN_WORKER_ROUTES"] = '[{"requests": "{t}:in", "responses": "{t}:out", "ops": ["tokenize"]}]'

        assert load({**environ, "TOKEN_WORKER_TOKENS_URL": "redis://b"}).tokens.url == "redis://b"
        (line,) = problems(environ)
        assert line.startswith("TOKEN_WORKER_TOKENS_URL: is that of the streams by default, and cannot be a cluster")

    def test_default_routes_on_a_cluster(self) -> None:
        """The default routes have no hash tags: on a cluster they are refused, with names that have."""
        lines = problems({"TOKEN_WORKER_STREAMS_URL": "redis+cluster://a", "TOKEN_WORKER_KEYS_URL": "redis://b"})

        assert [line.partition(", as in ")[::2] for line in lines] == [
            ("TOKEN_WORKER_ROUTES: routes[0].requests: in a cluster it needs a hash tag", "{tokenize}:requests"),
            (
                "TOKEN_WORKER_ROUTES: routes[0].responses: in a cluster it needs the same hash tag",
                "{tokenize}:responses",
            ),
            ("TOKEN_WORKER_ROUTES: routes[1].requests: in a cluster it needs a hash tag", "{detokenize}:requests"),
            (
                "TOKEN_WORKER_ROUTES: routes[1].responses: in a cluster it needs the same hash tag",
                "{detokenize}:responses",
            ),
        ]

    def test_two_passwords_for_one_address_are_refused(self, secret: Path) -> None:
        """Two passwords for one address are a contradiction."""
        environ = {
            "TOKEN_WORKER_STREAMS_URL": "redis://:pw@host",
            "TOKEN_WORKER_STREAMS_PASSWORD_FILE": str(secret),
        }

        (line,) = problems(environ)

        assert line.startswith("TOKEN_WORKER_STREAMS_PASSWORD_FILE: is set, and the address has a password")

    def test_empty_password_file_is_refused(self, secret: Path) -> None:
        """An empty password file is refused: without its password the worker would ask as somebody else."""
        secret.write_text("\n")

        (line,) = problems({"TOKEN_WORKER_TOKENS_PASSWORD_FILE": str(secret)})

        assert line.startswith("TOKEN_WORKER_TOKENS_PASSWORD_FILE: names a file that is empty")

    def test_key_without_certificate_is_refused(self, secret: Path) -> None:
        """A private key without its certificate is refused."""
        environ = {"TOKEN_WORKER_STREAMS_URL": "rediss://host", "TOKEN_WORKER_STREAMS_KEY_FILE": str(secret)}

        (line,) = problems(environ)

        assert line.endswith("needs its certificate; set TOKEN_WORKER_STREAMS_CERT_FILE")

    @pytest.mark.parametrize(
        ("streams", "keys", "tokens", "shared"),
        [
            ("redis://a", "redis://b", "redis://c", False),
            ("redis://a", "redis://A:6379/5", "redis://c", True),
            ("redis://a", "redis://b", "rediss://x@a:6379", True),
            ("redis://a:1", "redis://a:2", "redis://a:3", False),
            ("redis://localhost", "redis://127.0.0.1/1", "redis://c", True),
            ("unix:///s", "unix:///s?db=1", "redis://c", True),
            ("unix:///s", "unix:///t", "unix:///t", False),
            ("redis+sentinel://a,b/main", "redis+sentinel://b,a:26379/main/1", "redis://c", True),
            ("redis+sentinel://a,b/main", "redis+sentinel://a,b/other", "redis://c", False),
        ],
    )
    def test_server_of_both_streams_and_storage_is_noticed(
        self, streams: str, keys: str, tokens: str, shared: bool
    ) -> None:
        """Streams and storage on one server are noticed, whatever database or user they are reached by."""
        settings = load(
            {"TOKEN_WORKER_STREAMS_URL": streams, "TOKEN_WORKER_KEYS_URL": keys, "TOKEN_WORKER_TOKENS_URL": tokens}
        )

        assert settings.streams_and_storage_share_server is shared


class TestMasterKey:
    def test_source_follows_vault(self) -> None:
        """The master key comes from Vault where there is one, unless it is said otherwise."""
        environ = {"VAULT_ADDR": "https://vault:8200"}

        assert load(environ).master_key_source == "vault"
        assert load(environ | {"TOKEN_WORKER_MASTER_KEY_SOURCE": "env"}).master_key_source == "env"

    def test_two_master_keys_are_refused(self) -> None:
        """A master key and a file with one are a contradiction."""
        (line,) = problems({"ACRA_MASTER_KEY": CANARY, "ACRA_MASTER_KEY_FILE": "/x"})

        assert line == "ACRA_MASTER_KEY: is set as well as ACRA_MASTER_KEY_FILE; set one of them"

    def test_vault_settings_come_from_both_names_of_a_variable(self) -> None:
        """Vault's settings come from the variables of its command line and from our own."""
        vault = load(
            {
                "VAULT_ADDR": "https://vault:8200",
                "VAULT_TOKEN": "t",
                "VAULT_NAMESPACE": "n",
                "VAULT_CACERT": "/ca.pem",
                "VAULT_CAPATH": "/ca",
                "VAULT_CLIENT_CERT": "/cert",
                "VAULT_CLIENT_KEY": "/key",
                "VAULT_SKIP_VERIFY": "T",
                "TOKEN_WORKER_VAULT_AUTH_MOUNT": "kubernetes",
                "TOKEN_WORKER_VAULT_ROLE": "r",
                "TOKEN_WORKER_VAULT_ROLE_ID": "i",
                "TOKEN_WORKER_VAULT_SECRET_ID_FILE": "/sid",
                "TOKEN_WORKER_VAULT_JWT_FILE": "/jwt",
                "TOKEN_WORKER_VAULT_SECRET": "kv/worker/key",
            }
        ).vault

        assert vault is not None
        assert (vault.address, vault.auth, vault.token, vault.namespace) == ("https://vault:8200", "token", "t", "n")
        assert (vault.ca_cert, vault.ca_path, vault.client_cert, vault.client_key) == (
            "/ca.pem",
            "/ca",
            "/cert",
            "/key",
        )
        assert (vault.skip_verify, vault.auth_mount, vault.role, vault.role_id) == (True, "kubernetes", "r", "i")
        assert (vault.secret_id_file, vault.jwt_file, vault.secret) == ("/sid", "/jwt", "kv/worker/key")

    def test_token_falls_back_to_acras_variable_and_the_file(self, tmp_path: Path) -> None:
        """Without VAULT_TOKEN the token is that of Acra's variable, else the one that the Vault command line keeps."""
        environ = {"VAULT_ADDR": "http://vault", "HOME": str(tmp_path)}
        api_token = {"VAULT_API_TOKEN": base64.b64encode(b"of-acra").decode()}

        def token(**more: str) -> str | None:
            vault = load(environ | more).vault
            assert vault is not None
            return vault.token

        assert token() is None
        assert token(HOME="/dev/null") is None
        (tmp_path / ".vault-token").write_text("of-the-file\n")
        assert token() == "of-the-file"
        assert token(**api_token) == "of-acra"
        assert token(**api_token, VAULT_TOKEN="of-vault") == "of-vault"
        assert token(TOKEN_WORKER_VAULT_AUTH="approle", VAULT_TOKEN="of-vault") is None


class TestRoutes:
    def test_routes_come_from_the_environment(self) -> None:
        """Routes come from the environment as a JSON list."""
        text = '[{"requests": "in", "responses": "out", "ops": ["tokenize"], "client_id": "shop1", "zones": null}]'

        assert load({"TOKEN_WORKER_ROUTES": text}).routes == (Route("in", "out", frozenset({Op.TOKENIZE}), "shop1"),)

    def test_routes_come_from_the_file(self, config: Path) -> None:
        """Routes come from the file as tables."""
        config.write_text('[[routes]]\nrequests = "in"\nresponses = "out"\nops = ["tokenize", "detokenize"]\n')

        assert load({}, config).routes == (Route("in", "out", frozenset(Op)),)

    @pytest.mark.parametrize("text", ["{", "{}", "5", '"x"', "\udcff", "[" * 5000])
    def test_routes_that_are_no_list_are_refused(self, text: str) -> None:
        """Anything but a list is refused with an example."""
        (line,) = problems({"TOKEN_WORKER_ROUTES": text})

        assert line.startswith("TOKEN_WORKER_ROUTES: expected ")
        assert line.endswith('a list of routes like {"requests": "in", "responses": "out", "ops": ["tokenize"]}')

    def test_problems_name_index_and_member(self, config: Path) -> None:
        """A problem of a route names its index and member, and where the routes come from."""
        config.write_text(
            '[[routes]]\nrequests = "in"\nresponses = "out"\nops = ["tokenise"]\nretention_bytes = 0\nclient = "a"\n'
            "[[routes]]\nresponses = 5\n"
        )
        where = f"TOKEN_WORKER_ROUTES (routes in {config}): routes"

        assert problems({}, config) == [
            f"{where}[0]: has no member 'client'; the nearest is 'client_id'",
            f"{where}[0].ops: expected a list of tokenize or detokenize",
            f"{where}[0].retention_bytes: expected a whole number from 1 to 9007199254740992",
            f"{where}[1].requests: is missing; expected text that is not empty",
            f"{where}[1].responses: expected text that is not empty",
            f"{where}[1].ops: is missing; expected a list of tokenize or detokenize",
        ]

    def test_routes_that_contradict_are_refused(self) -> None:
        """Routes that are well formed, but cannot be served together, are refused."""
        text = '[{"requests": "in", "responses": "in", "ops": ["tokenize"]}]'

        (line,) = problems({"TOKEN_WORKER_ROUTES": text})

        assert line.startswith("TOKEN_WORKER_ROUTES: routes[0].responses: is the same stream as routes[0].requests")


class TestFormats:
    def test_built_in_formats_need_no_setting(self) -> None:
        """Without settings there is a format for each kind that needs no parameter, under the name of the kind."""
        formats = load({}).formats
        assert formats.keys() == builtin_formats().keys()
        assert formats["pan"].field == builtin_formats()["pan"].field

    def test_formats_come_from_the_file_and_the_environment(self, config: Path) -> None:
        """A format is a kind with parameters. The name of a built-in format replaces it; routes may name them all."""
        config.write_text(
            '[[formats]]\nname = "card"\nkind = "pan"\nkeep_first = 6\n'
            '[[formats]]\nname = "pan"\nkind = "pan"\nkeep_last = 0\n'
            '[[routes]]\nrequests = "in"\nresponses = "out"\nops = ["tokenize"]\nallowed_formats = ["pan"]\n'
            'formats_required = true\non_other = "refuse"\n[routes.formats]\nfirst = "card"\n"*" = "pan"\n'
        )
        settings = load({}, config)

        assert settings.formats["card"].name == "card"
        assert settings.formats["card"].parameters.keep_first == 6
        assert settings.formats["pan"].parameters.keep_last == 0
        [route] = settings.routes
        assert (route.formats, route.allowed_formats) == ({"first": "card", "*": "pan"}, ("pan",))
        assert (route.formats_required, route.on_other) == (True, "refuse")

        environ = {"TOKEN_WORKER_FORMATS": '[{"name": "card", "kind": "pan", "keep_first": 1}]'}
        formats = load(environ, config).formats
        assert formats["card"].parameters.keep_first == 1
        assert formats["pan"].field == builtin_formats()["pan"].field

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            ("name = 1", "formats[0].kind: is missing; expected one of pan"),
            ('kind = "pan"', "formats[0].name: is missing; expected 1 to 64 printable ASCII characters"),
            ('name = "a b"\nkind = "pan"', "formats[0].name: expected 1 to 64 printable ASCII characters"),
            ('name = "a=b"\nkind = "pan"', "formats[0].name: expected 1 to 64 printable ASCII characters"),
            ('name = "str:b"\nkind = "pan"', "formats[0].name: expected 1 to 64 printable ASCII characters"),
            (f'name = "{"x" * 65}"\nkind = "pan"', "formats[0].name: expected 1 to 64 printable ASCII characters"),
            ('name = "email"\nkind = "pan"', "formats[0].name: is the name of a type; choose another"),
            ('name = "x"\nkind = "pam"', "formats[0].kind: expected one of pan"),
            ('name = "x"\nkind = "pan"\nkeep_fist = 1', "has no parameter 'keep_fist'; it has keep_first, keep_last"),
            (
                'name = "x"\nkind = "pan"\nkeep_first = 13',
                "formats[0] (x).keep_first: expected a whole number from 0",
            ),
            ('name = "x"\nkind = "pan"\ntoken = "real"', "formats[0] (x).token: expected invalid or valid or any"),
            ('name = "x"\nkind = "pan"\nkeep_first = 6\ntoken = "valid"', "formats[0] (x).token: a valid number with"),
            (
                f'name = "x"\nkind = "date"\ntemplate = "%Y-%m-%d{" " * 57}"',
                "formats[0] (x).template: expected text of 1 to 64 characters",
            ),
            (
                'name = "x"\nkind = "pan"\nkeep_first = 12',
                "formats[0] (x).min_space: no value can have 10,000 tokens, at most 1,000",
            ),
            (
                'name = "x"\nkind = "pan"\n[[formats]]\nname = "x"\nkind = "pan"',
                "formats[1].name: two formats have this name",
            ),
        ],
    )
    def test_wrong_format_is_refused_with_its_place(self, config: Path, table: str, said: str) -> None:
        """A wrong format is refused by its index and parameter, with what is expected."""
        config.write_text(f"[[formats]]\n{table}\n")
        found = problems({}, config)
        assert any(said in line for line in found), found

    def test_formats_that_are_no_list_are_refused(self) -> None:
        """Text that is not a list of tables is refused with an example."""
        for text in ("pan", "7", '["pan"]', '{"name": "pan"}'):
            assert any('{"name": "card", "kind": "pan"' in line for line in problems({"TOKEN_WORKER_FORMATS": text}))

    def test_ref_that_no_item_can_have_is_refused(self) -> None:
        """A format for a ref of 128 characters is taken. A longer ref, which no item can have, is refused."""
        route = '[{{"requests": "in", "responses": "out", "ops": ["tokenize"], "formats": {{"{}": "pan"}}}}]'
        assert load({"TOKEN_WORKER_ROUTES": route.format("r" * 128)}).routes[0].formats
        (problem,) = problems({"TOKEN_WORKER_ROUTES": route.format("r" * 129)})
        assert "routes[0].formats: expected formats by ref, of at most 128 characters" in problem

    def test_every_token_can_be_sent_back(self) -> None:
        """The limit of values cannot be less than the longest token of a template, whose value may be shorter."""
        longest = len(("\U0001f600" * VALUE_CHARACTERS).encode())
        assert load({"TOKEN_WORKER_MAX_VALUE_BYTES": str(longest)}).max_value_bytes == longest
        assert problems({"TOKEN_WORKER_MAX_VALUE_BYTES": str(longest - 1)})

    def test_routes_name_formats_that_exist(self, config: Path) -> None:
        """A format that does not exist is refused where the route names it. So are formats without tokenize."""
        config.write_text(
            '[[routes]]\nrequests = "a"\nresponses = "b"\nops = ["tokenize"]\nallowed_formats = ["pan", "pen", "qq"]\n'
            'formats = { card = "pann" }\n'
            '[[routes]]\nrequests = "c"\nresponses = "d"\nops = ["detokenize"]\nformats = { card = "pan" }\n'
            'on_other = "refuse"\n'
        )
        label, known = f"TOKEN_WORKER_ROUTES (routes in {config}): ", ", ".join(sorted(builtin_formats()))
        assert problems({}, config) == [
            f"{label}routes[0].formats.card: there is no such format; the nearest is 'pan'",
            f"{label}routes[0].allowed_formats[1]: there is no such format; the nearest is 'pan'",
            f"{label}routes[0].allowed_formats[2]: there is no such format; there are {known}",
            f"{label}routes[1].formats: has a meaning only for tokenize, which the route does not serve",
            f"{label}routes[1].on_other: has a meaning only for tokenize, which the route does not serve",
        ]

    def test_rules_that_no_value_can_meet_are_refused(self, config: Path) -> None:
        """A route that requires a format and allows none is refused, and so is a format for an empty ref."""
        route = '[[routes]]\nrequests = "a"\nresponses = "b"\nops = ["tokenize"]\n'
        config.write_text(f"{route}formats_required = true\nallowed_formats = []\n")
        assert "allowed_formats: is empty" in problems({}, config)[0]
        config.write_text(f'{route}formats = {{ "" = "pan" }}\n')
        assert "formats: a ref is missing" in problems({}, config)[0]

    def test_format_that_is_wrong_is_not_called_missing(self, config: Path) -> None:
        """A route that names a format with a mistake gets no second message about it."""
        config.write_text(
            '[[formats]]\nname = "card"\nkind = "pan"\nkeep_first = 12\n'
            '[[routes]]\nrequests = "a"\nresponses = "b"\nops = ["tokenize"]\nallowed_formats = ["card"]\n'
        )
        [problem] = problems({}, config)
        assert "formats[0] (card).min_space" in problem


def test_representations_hide_secrets(secret: Path) -> None:
    """No representation of settings shows a secret, with rich neither."""
    settings = load(
        {
            "TOKEN_WORKER_STREAMS_URL": f"redis://app:{CANARY}@host",
            "TOKEN_WORKER_TOKENS_PASSWORD_FILE": str(secret),
            "ACRA_MASTER_KEY": CANARY,
            "VAULT_ADDR": "http://vault",
            "VAULT_TOKEN": CANARY,
        }
    )

    for text in (repr(settings), str(settings), f"{settings}", pretty_repr(settings)):
        assert CANARY not in text
        assert "redis://app@host" in text
    assert settings.streams.password == settings.tokens.password == settings.master_key == CANARY
