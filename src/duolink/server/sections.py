"""What the sections of the settings are made of: descriptions with bounds, and the error of a bad value."""

from typing import Any

from msgspec import Meta, Struct


def about(text: str, **bounds: Any) -> Meta:
    """Return the description of a field, with the bounds of its values."""
    return Meta(description=text, **bounds)


def seconds(text: str, ge: float = 0, le: float = 31_536_000) -> Meta:
    """Describe a time: at most a year."""
    return Meta(description=text, ge=ge, le=le)


def count(text: str, ge: int = 0, le: int = 10_000_000) -> Meta:
    """Describe a number of things: more than ten million of anything is a typing error."""
    return Meta(description=text, ge=ge, le=le)


def size(text: str, ge: int = 0, le: int = 1 << 40) -> Meta:
    """Describe a size in bytes: at most a tebibyte."""
    return Meta(description=text, ge=ge, le=le)


def port_number(text: str) -> Meta:
    """Describe a port."""
    return Meta(description=text, ge=0, le=65_535)


class ConfigError(ValueError):
    """A setting that is not allowed. `str()` is one line for the operator; `key` is dotted."""

    def __init__(self, key: str, problem: str, source: str = "configuration") -> None:
        super().__init__(f"{source}: {key}: {problem}" if key else f"{source}: {problem}")
        self.key = key
        self.problem = problem
        self.source = source


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections are: immutable, by keyword, without unknown keys."""
