"""One place for every option: its names, type, bounds, default and meaning.

``Options`` and its bases are the table. An option is an environment variable: the field's name in capitals, with
``TOKEN_WORKER_`` before it where Acra or the Vault command line have not named it already. In the TOML file it has the
field's name. The environment wins; a variable that is empty counts as unset.

``loader.load`` makes ``Settings`` of these options.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, inspect
from msgspec.structs import fields

from token_worker.redis.address import RedisSettings
from token_worker.settings.listen_address import ListenAddress
from token_worker.settings.vault import VaultSettings
from token_worker.streams.routes import Route
from token_worker.tokens.formats import KINDS, AnyFormat

PREFIX: Final = "TOKEN_WORKER_"

ROUTE_EXAMPLE: Final = '{"requests": "in", "responses": "out", "ops": ["tokenize"]}'

FORMAT_EXAMPLE: Final = '{"name": "card", "kind": "pan", "keep_first": 6}'

CONSUMER: Final = "{consumer}"
"""Stands for the name of the worker in the path of its audit file."""

Text = Annotated[str, Meta(min_length=1)]
AuditPath = Annotated[str, Meta(pattern=r"^([^{}]|\{consumer\})+\Z")]
PrintableName = Annotated[str, Meta(pattern=r"^[!-~]+\Z", max_length=256)]


def _means(meaning: str, *, default: str | None = None, expected: str | None = None) -> Meta:
    """Describe an option. ``default`` and ``expected`` are words, if those of the field say too little."""
    return Meta(description=meaning, extra={"default": default, "expected": expected})


_SECRET: Final = re.compile(r"password|(acra_)?master_key(_previous)?|vault_(api_)?token|.+_url")
"""Fields that hold or may hold a secret."""


class _SecretsHidden(msgspec.Struct, frozen=True, kw_only=True):
    """A structure that prints its secret fields as ``***``."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        return [
            (name, "***" if value is not None and _SECRET.fullmatch(name) else value) for name, value in shown.items()
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class PlainOptions(_SecretsHidden, frozen=True, kw_only=True):
    """Options that are used as they are given."""

    keys_folder: Annotated[Text, _means("prefix of keys in Redis, or their folder in Vault")] = ".acrakeys"
    keys_source: Annotated[Literal["redis", "vault"], _means("where client keys are: `redis` or `vault`")] = "redis"
    key_settling_seconds: Annotated[
        int,
        Meta(ge=0, le=86_400),
        _means("how long workers still seal with the old key after a rotation; beside Acra `600`"),
    ] = 0
    group: Annotated[PrintableName, _means("consumer group of the workers")] = "token-workers"
    batch_size: Annotated[int, Meta(ge=1, le=10_000), _means("most entries in a batch")] = 500
    max_items: Annotated[int, Meta(ge=1, le=10_000), _means("most items in a request")] = 1000
    max_value_bytes: Annotated[
        int,
        Meta(ge=1024, le=2**24),  # a token of a template can be longer than its value: 256 characters of 4 bytes
        _means("most bytes in a value"),
    ] = 65_536
    max_request_bytes: Annotated[int, Meta(ge=1, le=2**26), _means("most bytes in a payload")] = 1_048_576
    claim_idle_ms: Annotated[
        int, Meta(ge=1000, le=86_400_000), _means("a pending entry that is idle for longer is taken over")
    ] = 30_000
    max_deliveries: Annotated[
        int, Meta(ge=1, le=1000), _means("how often an entry is tried on its own before it becomes a dead letter")
    ] = 5
    durability: Annotated[
        Annotated[str, Meta(pattern=r"^(server|fsync|replicas:[1-9])\Z")],
        _means(
            "what holds for tokens before a reply: `server`: written; `fsync`: on disk; `replicas:N`: on N replicas",
            expected="server, fsync, or replicas:N with N from 1 to 9",
        ),
    ] = "server"
    layout: Annotated[
        Literal["acra", "dense"] | None,
        _means(
            "layout of the stored tokens, `acra` or `dense`: a worker does not start in another"
            " ([Layouts](layouts.md))",
            default="as recorded in the key storage; without a record `acra`",
        ),
    ] = None
    drain_seconds: Annotated[
        int, Meta(ge=0, le=3600), _means("how long a worker may take to finish its batch after SIGTERM")
    ] = 25
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _means("lowest level that is logged: `debug`, `info`, `warning` or `error`"),
    ] = "info"


class SharedOptions(PlainOptions, frozen=True, kw_only=True):
    """Options that have their names from Acra and from the Vault command line, besides the plain ones."""

    acra_master_key: Annotated[Text | None, _means("the master key in base64, if its source is `env`")] = None
    acra_master_key_file: Annotated[
        Text | None, _means("file with the master key in base64, instead of `ACRA_MASTER_KEY`")
    ] = None
    acra_master_key_previous: Annotated[
        Text | None,
        _means(
            "the previous master key in base64, while it is being replaced", default="an older version of the secret"
        ),
    ] = None
    vault_addr: Annotated[
        Text | None, _means("address of Vault or OpenBao, `http(s)://host:port`, or `unix:///path`")
    ] = None
    vault_agent_addr: Annotated[Text | None, _means("address of an agent of Vault, used in place of `VAULT_ADDR`")] = (
        None
    )
    vault_token: Annotated[
        Text | None, _means("token, if the log-in is by `token`", default="`VAULT_API_TOKEN`, else `~/.vault-token`")
    ] = None
    vault_api_token: Annotated[Text | None, _means("the same token in base64, as Acra reads it")] = None
    vault_namespace: Annotated[Text | None, _means("namespace of all paths in Vault")] = None
    vault_cacert: Annotated[
        Text | None, _means("file with the CA certificate of Vault", default="the authorities of the machine")
    ] = None
    vault_capath: Annotated[Text | None, _means("folder with CA certificates of Vault, of any names")] = None
    vault_cacert_bytes: Annotated[Text | None, _means("the CA certificate itself, in PEM")] = None
    vault_tls_server_name: Annotated[
        Text | None, _means("name that the certificate of Vault is for", default="the host of the address")
    ] = None
    vault_client_cert: Annotated[Text | None, _means("file with the client certificate for Vault")] = None
    vault_client_key: Annotated[Text | None, _means("file with the private key of that certificate")] = None
    vault_skip_verify: Annotated[bool, _means("`true`: the certificate of Vault is not checked", default="`false`")] = (
        False
    )


class Options(SharedOptions, frozen=True, kw_only=True):
    """All options."""

    streams_url: Annotated[Text, _means("address of the streams' Redis")] = "redis://127.0.0.1:6379/0"
    streams_password_file: Annotated[Text | None, _means("file with the password of that Redis")] = None
    streams_sentinel_user: Annotated[Text | None, _means("user of its Sentinels")] = None
    streams_sentinel_password_file: Annotated[Text | None, _means("file with the password of its Sentinels")] = None
    streams_ca_file: Annotated[Text | None, _means("file with the CA certificate, for `rediss://`")] = None
    streams_cert_file: Annotated[Text | None, _means("file with the client certificate, for `rediss://`")] = None
    streams_key_file: Annotated[Text | None, _means("file with the private key of that certificate")] = None
    keys_url: Annotated[Text | None, _means("address of the key storage's Redis", default="the streams' Redis")] = None
    keys_password_file: Annotated[Text | None, _means("file with the password of that Redis")] = None
    keys_sentinel_user: Annotated[Text | None, _means("user of its Sentinels")] = None
    keys_sentinel_password_file: Annotated[Text | None, _means("file with the password of its Sentinels")] = None
    keys_ca_file: Annotated[Text | None, _means("file with the CA certificate, for `rediss://`")] = None
    keys_cert_file: Annotated[Text | None, _means("file with the client certificate, for `rediss://`")] = None
    keys_key_file: Annotated[Text | None, _means("file with the private key of that certificate")] = None
    tokens_url: Annotated[
        Text | None, _means("address of the token storage's Redis", default="the key storage's Redis")
    ] = None
    tokens_password_file: Annotated[Text | None, _means("file with the password of that Redis")] = None
    tokens_sentinel_user: Annotated[Text | None, _means("user of its Sentinels")] = None
    tokens_sentinel_password_file: Annotated[Text | None, _means("file with the password of its Sentinels")] = None
    tokens_ca_file: Annotated[Text | None, _means("file with the CA certificate, for `rediss://`")] = None
    tokens_cert_file: Annotated[Text | None, _means("file with the client certificate, for `rediss://`")] = None
    tokens_key_file: Annotated[Text | None, _means("file with the private key of that certificate")] = None
    master_key_source: Annotated[
        Literal["vault", "env"] | None,
        _means("where the master key is: `vault` or `env`", default="`vault` if `VAULT_ADDR` is set, else `env`"),
    ] = None
    vault_secret: Annotated[
        Annotated[str, Meta(pattern=r"^[^/]+(/[^/]+)+\Z")],
        _means(
            "mount and path of the KV secret that holds the master key, without `data/`",
            expected="mount/path, without a slash at either end",
        ),
    ] = "secret/acra/transport"  # noqa: S105 - a path
    vault_auth: Annotated[
        Literal["token", "approle", "jwt"], _means("how to log in to Vault: `token`, `approle` or `jwt`")
    ] = "token"
    vault_auth_mount: Annotated[Text | None, _means("mount of the log-in method", default="the method's name")] = None
    vault_role: Annotated[Text | None, _means("role for `jwt`")] = None
    vault_role_id: Annotated[Text | None, _means("role id for `approle`")] = None
    vault_secret_id_file: Annotated[Text | None, _means("file with the secret id for `approle`")] = None
    vault_secret_id_wrapped: Annotated[
        bool, _means("`true`: that file holds a token that wraps the secret id", default="`false`")
    ] = False
    vault_jwt_file: Annotated[Text | None, _means("file with the JWT for `jwt`")] = None
    routes: Annotated[
        list[Any] | None,
        _means(
            "the routes as a JSON list; in the file `[[routes]]`",
            default="one to tokenize, one to detokenize",
            expected=f"a list of routes like {ROUTE_EXAMPLE}",
        ),
    ] = None
    formats: Annotated[
        list[Any] | None,
        _means(
            "formats besides the built-in ones, as a JSON list; in the file `[[formats]]`",
            default="none",
            expected=f"a list of formats like {FORMAT_EXAMPLE}",
        ),
    ] = None
    consumer: Annotated[
        PrintableName | None,
        _means("name of the consumer, unique to this process", default="host, process, random suffix"),
    ] = None
    http_address: Annotated[
        Text,
        _means("`HOST:PORT` or `[IPv6]:PORT` that serves `/metrics`, `/healthz` and `/readyz`, or `off`"),
    ] = "off"
    audit_file: Annotated[
        AuditPath | None,
        _means(
            "file of the audit log, one for each worker: `{consumer}` in it stands for the worker's name; commands"
            " write to a file beside it ([Audit](audit.md))",
            default="standard error, with the other logs",
            expected="a path, in which {consumer} may stand for the worker's name, and no other braces",
        ),
    ] = None
    log_format: Annotated[
        Literal["json", "console"] | None,
        _means("form of the log lines: `json` or `console`", default="`json`, on a terminal `console`"),
    ] = None


class FormatHead(msgspec.Struct, frozen=True, kw_only=True):
    """Members that each format has besides the parameters of its kind.

    Attributes:
        name: the name that requests and routes use. The name of a built-in format replaces it.
        kind: name of the kind.
    """

    name: Annotated[
        Annotated[str, Meta(pattern=r"^[!-9;<>-~]+\Z", max_length=64)],
        Meta(extra={"expected": "1 to 64 printable ASCII characters without spaces, = and :"}),
    ]
    kind: Annotated[
        Annotated[str, Meta(pattern=rf"^({'|'.join(KINDS)})\Z")],
        Meta(extra={"expected": f"one of {', '.join(KINDS)}"}),
    ]


class Settings(PlainOptions, frozen=True, kw_only=True):
    """The settings of the worker and its commands. ``Options`` describes each of them.

    Whether there is a master key is checked where it is used: many commands need none.
    """

    streams: RedisSettings
    keys: RedisSettings
    tokens: RedisSettings
    master_key_source: Literal["vault", "env"]
    master_key: str | None
    master_key_file: str | None
    master_key_previous: str | None
    vault: VaultSettings | None
    routes: tuple[Route, ...]
    formats: Mapping[str, AnyFormat]
    http_address: ListenAddress | None
    audit_file: str | None
    consumer: str
    log_format: Literal["json", "console"]

    @property
    def streams_and_storage_share_server(self) -> bool:
        """True if one server holds the streams and also keys or tokens. This is allowed, with a warning."""
        return self.streams.identity in {self.keys.identity, self.tokens.identity}


def describe() -> list[tuple[str, str, str]]:
    """List every option: its variable, default and meaning, in Markdown.

    An option that streams, keys and tokens all have is listed once.
    """
    lines: dict[str, tuple[str, str]] = {}
    for field in fields(Options):
        kind = inspect.type_info(field.type)
        if not isinstance(kind, inspect.Metadata):
            raise TypeError(f"option {field.name} has no description")
        default = (kind.extra or {}).get("default") or ("-" if field.default is None else f"`{field.default}`")
        told = default, (kind.extra_json_schema or {})["description"]
        name = re.sub(
            r"_(STREAMS|KEYS|TOKENS)_(.+_FILE|SENTINEL_USER)", r"_{STREAMS,KEYS,TOKENS}_\2", variable_name(field.name)
        )
        if lines.setdefault(name, told) != told:
            raise TypeError(f"option {field.name} is described in two ways")
    return [(name, *told) for name, told in lines.items()]


def variable_name(option: str) -> str:
    """Return the environment variable of an option."""
    has_prefix = option in PlainOptions.__struct_fields__ or option not in SharedOptions.__struct_fields__
    return PREFIX * has_prefix + option.upper()
