"""One place for every option: its names, type, bounds, default and meaning.

``Options`` and its bases are the table. An option is an environment variable: the field's name in capitals, with
``TOKEN_WORKER_`` before it where Acra or the Vault command line have not named it already. In the TOML file it has the
field's name. The environment wins; a variable that is empty counts as unset.

``load`` makes ``Settings`` of them: defaults that depend on other options filled in, passwords read. All problems are
reported at once. Their texts name the option, what is expected and what to set, never the value that was given, since
an address or a misplaced variable can hold a password.
"""

import base64
import difflib
import os
import re
import secrets
import socket
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, inspect
from msgspec.structs import FieldInfo, fields

from token_worker import redis_settings
from token_worker.errors import SettingsError
from token_worker.keys.vault_settings import VaultSettings
from token_worker.redis_settings import RedisSettings
from token_worker.streams.routes import DEFAULT_ROUTES, Route, check_routes, check_slots

PREFIX: Final = "TOKEN_WORKER_"

_KUBERNETES: Final = re.compile(
    r"TOKEN_WORKER_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PORT|PROTO|ADDR))?)"
)
"""Variables that Kubernetes makes for Services called token-worker or token-worker-<anything>."""

_VAULT_NAMES: Final = {"address": "addr", "ca_cert": "cacert", "ca_path": "capath"}
"""What the Vault command line calls it, where that is not the field's name."""

_ROUTE_EXAMPLE: Final = '{"requests": "in", "responses": "out", "ops": ["tokenize"]}'

Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(pattern=r"^[!-~]+\Z", max_length=256)]


def _means(meaning: str, *, default: str | None = None, expected: str | None = None) -> Meta:
    """What an option means, and in words its default and its type where those of the field do not say it."""
    return Meta(description=meaning, extra={"default": default, "expected": expected})


_SECRET: Final = re.compile(r"password|(acra_)?master_key(_previous)?|vault_(api_)?token|.+_url")
"""Fields that hold a secret, or may."""


class _SecretsHidden(msgspec.Struct, frozen=True, kw_only=True):
    """A structure whose secret fields are shown as ``***``, if set, wherever it is printed."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        return [(name, "***" if it is not None and _SECRET.fullmatch(name) else it) for name, it in shown.items()]

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
    group: Annotated[Name, _means("consumer group of the workers")] = "token-workers"
    batch_size: Annotated[int, Meta(ge=1, le=10_000), _means("most entries in a batch")] = 500
    max_items: Annotated[int, Meta(ge=1, le=10_000), _means("most items in a request")] = 1000
    max_value_bytes: Annotated[int, Meta(ge=1, le=2**24), _means("most bytes in a value")] = 65_536
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
    vault_addr: Annotated[Text | None, _means("address of Vault or OpenBao, `http(s)://host:port`")] = None
    vault_token: Annotated[
        Text | None, _means("token, if the log-in is by `token`", default="`VAULT_API_TOKEN`, else `~/.vault-token`")
    ] = None
    vault_api_token: Annotated[Text | None, _means("the same token in base64, as Acra reads it")] = None
    vault_namespace: Annotated[Text | None, _means("namespace of all paths in Vault")] = None
    vault_cacert: Annotated[Text | None, _means("file with the CA certificate of Vault")] = None
    vault_capath: Annotated[Text | None, _means("folder with CA certificates of Vault")] = None
    vault_client_cert: Annotated[Text | None, _means("file with the client certificate for Vault")] = None
    vault_client_key: Annotated[Text | None, _means("file with the private key of that certificate")] = None
    vault_skip_verify: Annotated[bool, _means("`true`: the certificate of Vault is not checked", default="`false`")] = (
        False
    )


class Options(SharedOptions, frozen=True, kw_only=True):
    """All options."""

    streams_url: Annotated[Text, _means("address of the streams' Redis")] = "redis://127.0.0.1:6379/0"
    streams_password_file: Annotated[Text | None, _means("file with the password of that Redis")] = None
    streams_sentinel_password_file: Annotated[Text | None, _means("file with the password of its Sentinels")] = None
    streams_ca_file: Annotated[Text | None, _means("file with the CA certificate, for `rediss://`")] = None
    streams_cert_file: Annotated[Text | None, _means("file with the client certificate, for `rediss://`")] = None
    streams_key_file: Annotated[Text | None, _means("file with the private key of that certificate")] = None
    keys_url: Annotated[Text | None, _means("address of the key storage's Redis", default="the streams' Redis")] = None
    keys_password_file: Annotated[Text | None, _means("file with the password of that Redis")] = None
    keys_sentinel_password_file: Annotated[Text | None, _means("file with the password of its Sentinels")] = None
    keys_ca_file: Annotated[Text | None, _means("file with the CA certificate, for `rediss://`")] = None
    keys_cert_file: Annotated[Text | None, _means("file with the client certificate, for `rediss://`")] = None
    keys_key_file: Annotated[Text | None, _means("file with the private key of that certificate")] = None
    tokens_url: Annotated[
        Text | None, _means("address of the token storage's Redis", default="the key storage's Redis")
    ] = None
    tokens_password_file: Annotated[Text | None, _means("file with the password of that Redis")] = None
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
    vault_jwt_file: Annotated[Text | None, _means("file with the JWT for `jwt`")] = None
    routes: Annotated[
        list[Any] | None,
        _means(
            "the routes as a JSON list; in the file `[[routes]]`",
            default="one to tokenize, one to detokenize",
            expected=f"a list of routes like {_ROUTE_EXAMPLE}",
        ),
    ] = None
    consumer: Annotated[
        Name | None, _means("name of the consumer, unique to this process", default="host, process, random suffix")
    ] = None
    http_address: Annotated[
        Annotated[str, Meta(pattern=r"^(off|.+:[0-9]{1,5})\Z")],
        _means("`host:port` that serves `/metrics`, `/healthz` and `/readyz`, or `off`", expected="host:port, or off"),
    ] = "off"
    audit_file: Annotated[
        Text | None, _means("file of the audit log", default="standard error, with the other logs")
    ] = None
    log_format: Annotated[
        Literal["json", "console"] | None,
        _means("form of the log lines: `json` or `console`", default="`json`, on a terminal `console`"),
    ] = None


class Settings(PlainOptions, frozen=True, kw_only=True):
    """All that the worker and its commands need to know; see ``Options`` for what each means.

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
    http_address: str | None
    audit_file: str | None
    consumer: str
    log_format: Literal["json", "console"]

    @property
    def streams_and_storage_share_server(self) -> bool:
        """Whether one server holds both the streams and keys or tokens, which is allowed and warned about."""
        return self.streams.server in {self.keys.server, self.tokens.server}


def describe() -> list[tuple[str, str, str]]:
    """Every option: variable, default and meaning, the latter two in Markdown.

    What streams, keys and tokens all have is told once.
    """
    lines: dict[str, tuple[str, str]] = {}
    for field in fields(Options):
        kind = inspect.type_info(field.type)
        if not isinstance(kind, inspect.Metadata):
            raise TypeError(f"option {field.name} has no description")
        default = (kind.extra or {}).get("default") or ("-" if field.default is None else f"`{field.default}`")
        told = default, (kind.extra_json_schema or {})["description"]
        name = re.sub(r"_(STREAMS|KEYS|TOKENS)_(.+_FILE)", r"_{STREAMS,KEYS,TOKENS}_\2", _variable(field.name))
        if lines.setdefault(name, told) != told:
            raise TypeError(f"option {field.name} is described in two ways")
    return [(name, *told) for name, told in lines.items()]


def load(environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Settings from the environment and, where the environment is silent, the file.

    Raises:
        SettingsError: the message has one problem a line, all there are.
    """
    loader = _Loader(environ)
    given = loader.from_file(file) if file else {}
    given |= loader.from_environment()
    settings = loader.resolve(given)
    if loader.problems:
        raise SettingsError("\n".join(loader.problems))
    return settings


def _variable(option: str) -> str:
    """The environment variable of an option."""
    has_prefix = option in PlainOptions.__struct_fields__ or option not in SharedOptions.__struct_fields__
    return PREFIX * has_prefix + option.upper()


def _expected(kind: inspect.Type) -> str:
    """A type of the table in words."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            return (extra or {}).get("expected") or _expected(inner)
        case inspect.UnionType(types=[first, *_]):
            return _expected(first)
        case inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=choices):
            return " or ".join(str(choice) for choice in choices)
        case inspect.EnumType(cls=enum):
            return " or ".join(str(choice) for choice in enum)
        case inspect.FrozenSetType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"a list of {_expected(item)}"
        case inspect.StrType(pattern=str(), max_length=most):
            return f"at most {most} printable ASCII characters without spaces"
        case _:
            return "text that is not empty"


def _nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]


# Stands in for an address that was refused, so that loading can go on to the other problems.
_REFUSED: Final = RedisSettings(url="rediss://refused")


class _Loader:
    """Collects problems instead of stopping at the first; what it returns counts only if there are none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._labels: dict[str, str] = {}

    def from_file(self, file: Path) -> dict[str, Any]:
        """The file's options as TOML has them."""
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            self.problems.append(f"{file}: cannot be read ({error.strerror}); name a file of settings that can")
            return {}
        except ValueError as error:  # its text may quote the file; the place never does
            place = re.search(r"\(at (line \d+, column \d+)\)\Z", str(error))
            self.problems.append(f"{file}: expected TOML in UTF-8{f', but not so at {place[1]}' if place else ''}")
            return {}
        known = Options.__struct_fields__
        for name in sorted(found.keys() - set(known)):
            nearest = _nearest(name.lower().removeprefix(PREFIX.lower()), known)
            self.problems.append(f"{file}: there is no option {name!r}; the nearest is {nearest!r}")
        self._labels = {name: f"{_variable(name)} ({name} in {file})" for name in found}
        return {name: found[name] for name in known if name in found}

    def from_environment(self) -> dict[str, Any]:
        """The options that variables set, as text; routes decoded."""
        given: dict[str, Any] = {}
        variables = {_variable(option): option for option in Options.__struct_fields__}
        for variable, option in variables.items():
            if text := self._environ.get(variable, "").strip():
                given[option] = text
                self._labels.pop(option, None)
        for variable in sorted(self._environ):
            if variable.startswith(PREFIX) and variable not in variables and not _KUBERNETES.fullmatch(variable):
                own = [name for name in variables if name.startswith(PREFIX)]
                self.problems.append(f"{variable}: there is no such option; the nearest is {_nearest(variable, own)}")
        if "routes" in given:
            try:
                given["routes"] = msgspec.json.decode(given["routes"])
            except (ValueError, RecursionError):
                self._problem("routes", f"expected JSON: a list of routes like {_ROUTE_EXAMPLE}")
                del given["routes"]
        if given.get("vault_skip_verify") in {"t", "T", "f", "F"}:  # the Vault command line takes these, too
            given["vault_skip_verify"] = given["vault_skip_verify"] in {"t", "T"}
        return given

    def resolve(self, given: Mapping[str, Any]) -> Settings:
        """Types, defaults that depend on other options, contents of files, and what the options mean together."""
        options = Options(**self._converted(Options, given, self._label))
        if options.acra_master_key and options.acra_master_key_file:
            self._problem("acra_master_key", "is set as well as ACRA_MASTER_KEY_FILE; set one of them")
        vault = self._vault(options)
        for option in ("keys_source", "master_key_source"):
            if vault is None and getattr(options, option) == "vault":
                self._problem(option, "vault needs its address; set VAULT_ADDR")
        streams = self._redis(options, "streams", _REFUSED)
        keys = self._redis(options, "keys", streams)
        tokens = self._redis(options, "tokens", keys)
        keys_are_used = options.keys_source == "redis" or options.keys_url is not None
        if keys.kind == "cluster" and keys_are_used:
            self._not_in_cluster("keys", options.keys_url)
        if tokens.kind == "cluster" and (options.tokens_url is not None or not keys_are_used):
            self._not_in_cluster("tokens", options.tokens_url)
        return Settings(
            **{name: getattr(options, name) for name in PlainOptions.__struct_fields__},
            streams=streams,
            keys=keys,
            tokens=tokens,
            master_key_source=options.master_key_source or ("vault" if vault else "env"),
            master_key=options.acra_master_key,
            master_key_file=options.acra_master_key_file,
            master_key_previous=options.acra_master_key_previous,
            vault=vault,
            routes=self._routes(options.routes, streams),
            http_address=None if options.http_address == "off" else options.http_address,
            audit_file=options.audit_file,
            consumer=options.consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            log_format=options.log_format or ("console" if sys.stderr.isatty() else "json"),
        )

    def _label(self, option: str) -> str:
        return self._labels.get(option, _variable(option))

    def _problem(self, option: str, text: str) -> None:
        self.problems.append(f"{self._label(option)}: {text}")

    def _converted(
        self, table: type[msgspec.Struct], given: Mapping[str, Any], label: Callable[[str], str]
    ) -> dict[str, Any]:
        """What is given, in the types of the table's fields; what is wrong or missing is reported and left out."""
        values = {}
        for field in fields(table):
            found = given.get(field.name)
            if found is None:
                if field.required:
                    self.problems.append(f"{label(field.name)}: is missing; {_hint(field)}")
                continue
            try:
                value = msgspec.convert(found, field.type, strict=False)
            except ValueError:
                value = None
            if value is None:  # not convertible, or a text like "null" taken for none
                self.problems.append(f"{label(field.name)}: {_hint(field)}")
            else:
                values[field.name] = value
        return values

    def _not_in_cluster(self, part: str, url: str | None) -> None:
        is_default = "" if url else "is that of the streams by default, and "
        text = f"{is_default}cannot be a cluster: Acra needs one primary; set the address of a server or of Sentinels"
        self._problem(f"{part}_url", text)

    def _routes(self, given: list[Any] | None, streams: RedisSettings) -> tuple[Route, ...]:
        problems_before = len(self.problems)
        converted = [
            self._route(f"{self._label('routes')}: routes[{index}]", it) for index, it in enumerate(given or ())
        ]
        if len(self.problems) > problems_before:
            return DEFAULT_ROUTES
        routes = DEFAULT_ROUTES if given is None else tuple(Route(**members) for members in converted)
        for text in check_routes(routes) or (check_slots(routes) if streams.kind == "cluster" else ()):
            self._problem("routes", text)
        return routes

    def _route(self, label: str, given: object) -> dict[str, Any]:
        if not isinstance(given, dict):
            self.problems.append(f"{label}: expected a route like {_ROUTE_EXAMPLE}")
            return {}
        known = Route.__struct_fields__
        for name in sorted(given.keys() - set(known)):
            self.problems.append(f"{label}: has no member {name!r}; the nearest is {_nearest(name, known)!r}")
        return self._converted(Route, given, lambda member: f"{label}.{member}")

    def _redis(self, options: Options, part: str, default: RedisSettings) -> RedisSettings:
        """The address of one Redis, or the default's with what is set for this one in its place."""
        url: str | None = getattr(options, f"{part}_url")
        redis = default if url is None else self._address(f"{part}_url", url)
        own: dict[str, str] = {}
        for member in ("ca_file", "cert_file", "key_file"):
            path: str | None = getattr(options, f"{part}_{member}")
            if path is None:
                continue
            self._content(f"{part}_{member}", path)
            own[member] = path
            if not redis.is_tls:
                self._problem(f"{part}_{member}", f"needs TLS; set {_variable(f'{part}_url')} to a rediss:// address")
        if path := getattr(options, f"{part}_password_file"):
            if url is not None and redis.password is not None:
                self._problem(f"{part}_password_file", "is set, and the address has a password; leave one of them out")
            own["password"] = self._content(f"{part}_password_file", path)
        if path := getattr(options, f"{part}_sentinel_password_file"):
            if redis.kind != "sentinel":
                where = f"set {_variable(f'{part}_url')} to a redis+sentinel:// address"
                self._problem(f"{part}_sentinel_password_file", f"needs Sentinels; {where}")
            own["sentinel_password"] = self._content(f"{part}_sentinel_password_file", path)
        redis = msgspec.structs.replace(redis, **own)
        if "key_file" in own and not redis.cert_file:
            self._problem(f"{part}_key_file", f"needs its certificate; set {_variable(f'{part}_cert_file')}")
        return redis

    def _address(self, option: str, url: str) -> RedisSettings:
        try:
            return redis_settings.parse(url)
        except ValueError as error:
            self._problem(option, str(error))
        return _REFUSED

    def _content(self, option: str, path: str) -> str:
        """What is in a small text file, without the newline at its end."""
        try:
            text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            self._problem(option, f"names a file that cannot be read ({reason}); set a readable one, or leave it out")
            return ""
        if not text:
            self._problem(option, "names a file that is empty; write into it, or leave the setting out")
        return text

    def _vault(self, options: Options) -> VaultSettings | None:
        if options.vault_addr is None:
            return None
        if not re.fullmatch(r"https?://[^@\s]+", options.vault_addr):
            self._problem("vault_addr", "expected http://host:port or https://host:port")
        given = {
            name: getattr(options, f"vault_{_VAULT_NAMES.get(name, name)}") for name in VaultSettings.__struct_fields__
        }
        return VaultSettings(**given | {"token": self._vault_token(options) if options.vault_auth == "token" else None})

    def _vault_token(self, options: Options) -> str | None:
        """The token as the Vault command line finds it, or as Acra does; whether one is needed shows at log-in."""
        if options.vault_token:
            return options.vault_token
        if options.vault_api_token:
            try:
                return base64.b64decode(options.vault_api_token, validate=True).decode("ascii").strip()
            except ValueError:
                self._problem(
                    "vault_api_token", "expected the base64 of a token; set that, or the token as VAULT_TOKEN"
                )
                return None
        try:
            return (Path(self._environ["HOME"]) / ".vault-token").read_text(encoding="ascii").strip() or None
        except (KeyError, OSError, ValueError):  # in a container HOME is often another user's
            return None


def _hint(field: FieldInfo) -> str:
    default = field.default
    good = f", such as {default}, the default" if isinstance(default, str | int) and default else ""
    return f"expected {_expected(inspect.type_info(field.type))}{good}"
