"""Load settings from the environment and a TOML file.

``load`` fills in defaults that depend on other options and reads passwords. All problems are reported at once. Their
texts name the option, what is expected and what to set, never the value that was given, since an address or a
misplaced variable can hold a password.
"""

import base64
import difflib
import os
import re
import secrets
import socket
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect
from msgspec.structs import FieldInfo, fields

from token_worker.acra.value_types import TYPES
from token_worker.errors import SettingsError
from token_worker.redis.address import RedisSettings, parse
from token_worker.settings.listen_address import ListenAddress
from token_worker.settings.options import (
    FORMAT_EXAMPLE,
    PREFIX,
    ROUTE_EXAMPLE,
    FormatHead,
    Options,
    PlainOptions,
    Settings,
    variable_name,
)
from token_worker.settings.vault import VaultSettings
from token_worker.streams.routes import DEFAULT_ROUTES, Route, check_formats, check_routes, check_slots
from token_worker.tokens.formats import KINDS, AnyFormat, builtin_formats
from token_worker.tokens.formats.base import FormatError

_KUBERNETES: Final = re.compile(
    r"TOKEN_WORKER_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PORT|PROTO|ADDR))?)"
)
"""Variables that Kubernetes makes for Services called token-worker or token-worker-<anything>."""

_VAULT_NAMES: Final = {
    "address": "addr",
    "ca_cert": "cacert",
    "ca_cert_bytes": "cacert_bytes",
    "ca_path": "capath",
    "server_name": "tls_server_name",
}
"""Names of the Vault command line that differ from the names of the fields."""


def load(environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Load settings from the environment and from a file. The environment wins.

    Raises:
        SettingsError: the message has all problems, one in each line.
    """
    loader = _Loader(environ)
    given = loader.from_file(file) if file else {}
    given |= loader.from_environment()
    settings = loader.resolve(given)
    if loader.problems:
        raise SettingsError("\n".join(loader.problems))
    return settings


def _expected(kind: inspect.Type) -> str:
    """Describe a type of the table in words."""
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


# Replaces an address that was refused, so that loading can continue and find other problems.
_REFUSED: Final = RedisSettings(url="rediss://refused")


class _Loader:
    """Collects problems instead of stopping at the first. Its results are valid only if there is no problem."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._labels: dict[str, str] = {}

    def from_file(self, file: Path) -> dict[str, Any]:
        """Read the options of the file, in their TOML types."""
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            self.problems.append(f"{file}: cannot be read ({error.strerror}); name a file of settings that can")
            return {}
        except ValueError as error:  # the text may quote the file; the place never does
            place = re.search(r"\(at (line \d+, column \d+)\)\Z", str(error))
            self.problems.append(
                f"{file}: expected TOML in UTF-8{f'; the first mistake is at {place[1]}' if place else ''}"
            )
            return {}
        known = Options.__struct_fields__
        for name in sorted(found.keys() - set(known)):
            nearest = _nearest(name.lower().removeprefix(PREFIX.lower()), known)
            self.problems.append(f"{file}: there is no option {name!r}; the nearest is {nearest!r}")
        self._labels = {name: f"{variable_name(name)} ({name} in {file})" for name in found}
        return {name: found[name] for name in known if name in found}

    def from_environment(self) -> dict[str, Any]:
        """Read the options of the environment, as text. The routes are decoded."""
        given: dict[str, Any] = {}
        variables = {variable_name(option): option for option in Options.__struct_fields__}
        for variable, option in variables.items():
            bao = variable.replace("VAULT_", "BAO_", 1) if variable.startswith("VAULT_") else variable
            for name in (bao, variable):  # OpenBao's command line takes either, and its own first
                if text := self._environ.get(name, "").strip():
                    given[option] = text
                    self._labels[option] = name
                    break
        for variable in sorted(self._environ):
            if variable.startswith(PREFIX) and variable not in variables and not _KUBERNETES.fullmatch(variable):
                own = [name for name in variables if name.startswith(PREFIX)]
                self.problems.append(f"{variable}: there is no such option; the nearest is {_nearest(variable, own)}")
        for option, example in (("routes", ROUTE_EXAMPLE), ("formats", FORMAT_EXAMPLE)):
            if option in given:
                try:
                    given[option] = msgspec.json.decode(given[option])
                except (ValueError, RecursionError):
                    self._problem(option, f"expected JSON: a list of {option} like {example}")
                    del given[option]
        if given.get("vault_skip_verify") in {"t", "T", "f", "F"}:  # the Vault command line accepts these, too
            given["vault_skip_verify"] = given["vault_skip_verify"] in {"t", "T"}
        return given

    def resolve(self, given: Mapping[str, Any]) -> Settings:
        """Convert types, read files, fill in defaults that depend on other options, and check combinations."""
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
        formats = self._formats(options.formats)
        keys_are_used = options.keys_source == "redis" or options.keys_url is not None
        if keys.kind == "cluster" and keys_are_used:
            self._not_in_cluster("keys", options.keys_url)
        if tokens.kind == "cluster" and (options.layout == "acra" if options.tokens_url else not keys_are_used):
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
            routes=self._routes(options.routes, streams, formats),
            formats=formats or {},
            http_address=self._listen_address(options.http_address),
            audit_file=options.audit_file,
            consumer=options.consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            log_format=options.log_format or ("console" if sys.stderr.isatty() else "json"),
        )

    def _label(self, option: str) -> str:
        return self._labels.get(option, variable_name(option))

    def _listen_address(self, text: str) -> ListenAddress | None:
        if text == "off":
            return None
        try:
            return ListenAddress.parse(text)
        except ValueError as error:
            self._problem("http_address", f"{error}; or off")
            return None

    def _problem(self, option: str, text: str) -> None:
        self.problems.append(f"{self._label(option)}: {text}")

    def _converted(
        self, table: type[msgspec.Struct], given: Mapping[str, Any], label: Callable[[str], str]
    ) -> dict[str, Any]:
        """Convert values to the types of a table. Wrong and missing values are reported and left out."""
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
            if value is None:  # not convertible, or a text like "null" was read as None
                self.problems.append(f"{label(field.name)}: {_hint(field)}")
            else:
                values[field.name] = value
        return values

    def _not_in_cluster(self, part: str, url: str | None) -> None:
        is_default = "" if url else "is that of the streams by default, and "
        text = f"{is_default}cannot be a cluster: Acra needs one primary; set the address of a server or of Sentinels"
        self._problem(f"{part}_url", text)

    def _formats(self, given: list[Any] | None) -> dict[str, AnyFormat] | None:
        """Return the built-in formats and those of the settings, which win where a name is the same. None: problems."""
        problems_before = len(self.problems)
        formats: dict[str, AnyFormat] = {}
        for index, table in enumerate(given or ()):
            label = f"{self._label('formats')}: formats[{index}]"
            made = self._format(label, table)
            if made is not None and formats.setdefault(made.name, made) is not made:
                self.problems.append(f"{label}.name: two formats have this name; choose another")
        return builtin_formats() | formats if len(self.problems) == problems_before else None

    def _format(self, label: str, given: object) -> AnyFormat | None:
        if not isinstance(given, dict):
            self.problems.append(f"{label}: expected a format like {FORMAT_EXAMPLE}")
            return None
        problems_before = len(self.problems)
        head = self._converted(
            FormatHead, {name: given.get(name) for name in ("name", "kind")}, lambda member: f"{label}.{member}"
        )
        if head.get("name") in TYPES:
            self.problems.append(f"{label}.name: is the name of a type; choose another")
        elif "name" in head:
            label += f" ({head['name']})"
        kind = KINDS.get(head.get("kind", ""))
        if kind is None:
            return None
        known = kind.parameters_type.__struct_fields__
        parameters = {name: value for name, value in given.items() if name not in FormatHead.__struct_fields__}
        for name in sorted(parameters.keys() - set(known)):
            text = f"kind {kind.kind} has no parameter {name!r}; it has {', '.join(sorted(known))}"
            self.problems.append(f"{label}: {text}")
        members = self._converted(kind.parameters_type, parameters, lambda member: f"{label}.{member}")
        if len(self.problems) > problems_before:
            return None
        try:
            return kind(head["name"], kind.parameters_type(**members))
        except FormatError as error:
            self.problems.append(f"{label}.{error.parameter}: {error}")
            return None

    def _routes(
        self, given: list[Any] | None, streams: RedisSettings, formats: Collection[str] | None
    ) -> tuple[Route, ...]:
        problems_before = len(self.problems)
        converted = [
            self._route(f"{self._label('routes')}: routes[{index}]", route) for index, route in enumerate(given or ())
        ]
        if len(self.problems) > problems_before:
            return DEFAULT_ROUTES
        routes = DEFAULT_ROUTES if given is None else tuple(Route(**members) for members in converted)
        for text in check_routes(routes) or (check_slots(routes) if streams.kind == "cluster" else ()):
            self._problem("routes", text)
        if formats is not None:
            for text in check_formats(routes, formats):
                self._problem("routes", text)
        return routes

    def _route(self, label: str, given: object) -> dict[str, Any]:
        if not isinstance(given, dict):
            self.problems.append(f"{label}: expected a route like {ROUTE_EXAMPLE}")
            return {}
        known = Route.__struct_fields__
        for name in sorted(given.keys() - set(known)):
            self.problems.append(f"{label}: has no member {name!r}; the nearest is {_nearest(name, known)!r}")
        return self._converted(Route, given, lambda member: f"{label}.{member}")

    def _redis(self, options: Options, part: str, default: RedisSettings) -> RedisSettings:
        """Return the settings of one Redis: its own address or the default, with its own files."""
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
                self._problem(
                    f"{part}_{member}", f"needs TLS; set {variable_name(f'{part}_url')} to a rediss:// address"
                )
        if path := getattr(options, f"{part}_password_file"):
            if url is not None and redis.password is not None:
                self._problem(f"{part}_password_file", "is set, and the address has a password; leave one of them out")
            own["password"], own["password_file"] = self._content(f"{part}_password_file", path), path
        for member in ("sentinel_user", "sentinel_password_file"):
            if getattr(options, f"{part}_{member}") and redis.kind != "sentinel":
                where = f"set {variable_name(f'{part}_url')} to a redis+sentinel:// address"
                self._problem(f"{part}_{member}", f"needs Sentinels; {where}")
        if user := getattr(options, f"{part}_sentinel_user"):
            own["sentinel_user"] = user
        if path := getattr(options, f"{part}_sentinel_password_file"):
            own["sentinel_password"] = self._content(f"{part}_sentinel_password_file", path)
            own["sentinel_password_file"] = path
        redis = msgspec.structs.replace(redis, **own)
        if "key_file" in own and not redis.cert_file:
            self._problem(f"{part}_key_file", f"needs its certificate; set {variable_name(f'{part}_cert_file')}")
        return redis

    def _address(self, option: str, url: str) -> RedisSettings:
        try:
            return parse(url)
        except ValueError as error:
            self._problem(option, str(error))
        return _REFUSED

    def _content(self, option: str, path: str) -> str:
        """Read a small text file, without the newline at its end."""
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
        option = "vault_agent_addr" if options.vault_agent_addr else "vault_addr"
        address = getattr(options, option)
        if address is None:
            return None
        if not re.fullmatch(r"https?://[^@\s]+|unix:///[^\s?#]+", address):
            self._problem(option, "expected http://host:port, https://host:port or unix:///path")
        given = {
            name: getattr(options, f"vault_{_VAULT_NAMES.get(name, name)}") for name in VaultSettings.__struct_fields__
        }
        token = self._vault_token(options) if options.vault_auth == "token" else None
        return VaultSettings(**given | {"address": address, "token": token})

    def _vault_token(self, options: Options) -> str | None:
        """Find the token like the Vault command line or like Acra. The log-in reports a missing token."""
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
        except (KeyError, OSError, ValueError):  # in a container, HOME often belongs to another user
            return None


def _hint(field: FieldInfo) -> str:
    default = field.default
    good = f", such as {default}, the default" if isinstance(default, str | int) and default else ""
    return f"expected {_expected(inspect.type_info(field.type))}{good}"
