"""Reading the server's settings: flags over environment over file over defaults.

Every value is checked once, here, and an error names where the value came from, its key, the value
and what is allowed. The schema is in `duolink.server.settings`; its names are offered here too.
"""

import difflib
import math
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from duolink.server.settings import (
    AUTOMATIC_RATES,
    Auth,
    ChannelSettings,
    Config,
    ConfigError,
    Heartbeat,
    Http,
    Key,
    Limits,
    Links,
    Listen,
    Log,
    Mailboxes,
    RateName,
    Rates,
    Session,
    Storage,
    Wire,
    is_loopback,
)

__all__ = [
    "AUTOMATIC_RATES",
    "Auth",
    "ChannelSettings",
    "Config",
    "ConfigError",
    "Heartbeat",
    "Http",
    "Key",
    "Limits",
    "Links",
    "Listen",
    "Log",
    "Mailboxes",
    "RateName",
    "Rates",
    "Session",
    "Storage",
    "Wire",
    "allowed",
    "default_path",
    "description",
    "is_loopback",
    "load",
    "number",
]

ENVIRONMENT_PREFIX = "DUOLINK_"
CLIENT_VARIABLES = frozenset({"DUOLINK_CONFIG", "DUOLINK_URL", "DUOLINK_TOKEN"})
"""Variables of the command line that are no settings of the server."""

DEFAULT_FILE = "duolink.toml"


def default_path(environ: Mapping[str, str], directory: Path) -> Path | None:
    """Return the file to read when none is named: `$DUOLINK_CONFIG`, else `duolink.toml` in the
    directory if it is there."""
    if environ.get("DUOLINK_CONFIG"):
        return Path(environ["DUOLINK_CONFIG"])
    path = directory / DEFAULT_FILE
    return path if path.is_file() else None


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read the settings: `overrides` (flags: dotted key → value or text, None for a flag that was not
    given) over `environ` (`DUOLINK_<SECTION>_<KEY>`) over the file.

    Raises:
        ConfigError: a source cannot be read, or a value in it is not allowed.
    """
    values: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for source, key, value in [
        *(_from_file(path) if path is not None else ()),
        *_from_environ(environ or {}),
        *_from_overrides(overrides or {}),
    ]:
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
        sources[key] = source
    sections: dict[str, Any] = {}
    for section, found in values.items():
        type_ = _SECTIONS[section]
        sections[section] = found[""] if section == "channels" else type_(**found)
    try:
        return Config(**sections)
    except ConfigError as error:
        key = "channels." if error.key.startswith("channels.") else error.key.partition("[")[0]
        raise ConfigError(error.key, error.problem, sources.get(key, "configuration")) from None


_SECTIONS: dict[str, Any] = {f.name: f.type for f in msgspec.structs.fields(Config)}
_Found = tuple[str, str, Any]  # source, dotted key, checked value


def _from_file(path: Path) -> list[_Found]:
    source = str(path)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError("", f"cannot be read: {error.strerror}", source) from None
    except UnicodeDecodeError:
        raise ConfigError("", "is not UTF-8", source) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"is not valid TOML: {error}", source) from None
    found: list[_Found] = []
    for section, content in document.items():
        _known(section, _SECTIONS, section, source)
        if not isinstance(content, dict):
            raise ConfigError(section, f"expected a table, [{section}]", source)
        if section == "channels":
            found.append((source, "channels.", _checked(content, _SECTIONS[section], section, source)))
            continue
        for key, value in content.items():
            found.append((source, f"{section}.{key}", _checked_key(section, key, value, source)))
    return found


def _from_environ(environ: Mapping[str, str]) -> list[_Found]:
    known = {"DUOLINK_CHANNELS": "channels."}
    for section, type_ in _SECTIONS.items():
        if section != "channels":
            for field in msgspec.structs.fields(type_):
                known[f"{ENVIRONMENT_PREFIX}{section}_{field.name}".upper()] = f"{section}.{field.name}"
    found: list[_Found] = []
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in CLIENT_VARIABLES:
            continue
        _known(variable, known, variable, "environment")
        if environ[variable]:  # an empty variable is one that is not set
            found.append(_from_text("environment", variable, known[variable], environ[variable]))
    return found


def _from_overrides(overrides: Mapping[str, object]) -> list[_Found]:
    found: list[_Found] = []
    for key, value in overrides.items():
        if value is None:
            continue
        section, _, name = key.partition(".")
        _known(section, _SECTIONS, key, "command line")
        if not name and section != "channels":
            raise ConfigError(key, "is a section; name one of its keys", "command line")
        if isinstance(value, str):
            found.append(_from_text("command line", key, key if name else "channels.", value))
        elif name:
            found.append(("command line", key, _checked_key(section, name, value, "command line")))
        else:
            checked = _checked(value, _SECTIONS[section], section, "command line")
            found.append(("command line", f"{section}.", checked))
    return found


def _from_text(source: str, shown: str, key: str, text: str) -> _Found:
    """Read a value written as text: numbers and words as they are, lists as `a,b` or JSON, tables as JSON."""
    section, _, name = key.partition(".")
    where = f"{source}: {shown}" if source == "environment" else source
    if not name:
        type_ = _SECTIONS[section]
    else:
        if get_origin(_bare(_SECTIONS[section])) is dict:
            elsewhere = f"write it into the configuration file, or set DUOLINK_{section.upper()} to JSON"
            raise ConfigError(key, f"cannot be set by itself; {elsewhere}", where)
        _known(name, _fields(_SECTIONS[section]), key, where)
        type_ = _fields(_SECTIONS[section])[name]
    container = get_origin(_bare(type_)) in (list, dict)
    value: Any = text
    if container and (text.lstrip().startswith(("[", "{")) or get_origin(_bare(type_)) is dict):
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ConfigError(key.rstrip("."), f"is not valid JSON: {error}", where) from None
    elif container:
        value = [part.strip() for part in text.split(",") if part.strip()]
    return where, key, _checked(value, type_, key.rstrip("."), where, text=not container)


def _checked_key(section: str, key: str, value: object, source: str) -> Any:
    fields = _fields(_SECTIONS[section])
    _known(key, fields, f"{section}.{key}", source)
    return _checked(value, fields[key], f"{section}.{key}", source)


def _fields(section: Any) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(section)}


def _known(name: str, names: Mapping[str, object], shown: str, source: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are: {', '.join(sorted(names))}"
        raise ConfigError(shown, f"is not a setting{hint}", source)


def _checked(value: Any, type_: Any, key: str, source: str, text: bool = False) -> Any:
    """Return the value as its type wants it, or raise `ConfigError`. Goes into lists and tables of
    structs by itself, so that an error names the innermost key."""
    bare = _bare(type_)
    if isinstance(bare, type) and issubclass(bare, Struct) and isinstance(value, dict):
        fields = _fields(bare)
        checked = {}
        for name, item in value.items():
            _known(name, fields, f"{key}.{name}", source)
            checked[name] = _checked(item, fields[name], f"{key}.{name}", source)
        missing = [f.name for f in msgspec.structs.fields(bare) if f.required and f.name not in checked]
        if missing:
            raise ConfigError(f"{key}.{missing[0]}", "is not set", source)
        return bare(**checked)
    if get_origin(bare) is list and isinstance(value, list):
        item_type = get_args(bare)[0]
        return [_checked(item, item_type, f"{key}[{i}]", source) for i, item in enumerate(value)]
    if get_origin(bare) is dict and isinstance(value, dict):
        item_type = get_args(bare)[1]
        return {name: _checked(item, item_type, f"{key}.{name!r}", source) for name, item in value.items()}
    try:
        converted = msgspec.convert(value, type_, strict=not text)
    except msgspec.ValidationError:
        converted = math.nan
    if isinstance(converted, float) and not math.isfinite(converted):
        shown = "the value" if _is_secret(key) else repr(value)
        raise ConfigError(key, f"{shown} is not allowed; expected {allowed(type_)}", source)
    return converted


def description(type_: Any) -> msgspec.Meta:
    """Return the description and bounds that a field's type carries."""
    if get_origin(type_) in (Union, types.UnionType):
        return description(next(a for a in get_args(type_) if a is not type(None)))
    return next((a for a in get_args(type_)[1:] if isinstance(a, msgspec.Meta)), msgspec.Meta())


def number(value: float) -> str:
    """Write a number as TOML has it, long ones in groups: `8080`, `0.5`, `65_536`."""
    text = f"{value:,}" if value >= 10_000 else str(value)
    return text.replace(",", "_").removesuffix(".0")


def _is_secret(key: str) -> bool:
    """Tell whether a value of this key must not be repeated in an error."""
    secrets = ("auth.keys", "http.metrics_token", "http.operator_token")
    return key.startswith(secrets) and not key.endswith((".algorithm", ".kid"))


def _bare(type_: Any) -> Any:
    """Return the type without `Annotated` and without `| None`."""
    if get_origin(type_) is Annotated:
        return _bare(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        return _bare(next(a for a in get_args(type_) if a is not type(None)))
    return type_


def allowed(type_: Any) -> str:
    """Say in words which values a type allows: `an integer from 0 to 65535`."""
    bare = _bare(type_)
    meta = description(type_)
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(map(str, get_args(bare)))
    if get_origin(bare) is list:
        return "a list of " + ("tables" if issubclass(get_args(bare)[0], Struct) else "texts")
    if bare is str:
        return f"a text of {meta.min_length} or more characters" if meta.min_length else "a text"
    if bare in (int, float):
        noun = "an integer" if bare is int else "a number"
        return f"{noun} from {number(meta.ge or 0)} to {number(meta.le or 0)}"
    return "true or false" if bare is bool else "a table"
