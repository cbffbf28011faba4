"""Write the reference tables of docs/configuration.md from the schema of the settings.

Without arguments the document is brought up to date; the tests check that it is.
"""

from pathlib import Path
from typing import Any, get_origin

import msgspec

from duolink.server.config import Config, Key, allowed, description, number
from duolink.server.settings import ChannelSettings

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- reference: made by scripts/config_reference.py -->\n"
END = "<!-- end of reference -->\n"


def reference() -> str:
    """Return the tables of all sections, in Markdown."""
    parts: list[str] = []
    for field in msgspec.structs.fields(Config):
        if field.name == "channels":
            parts.append(_table('[channels."PATTERN"]', ChannelSettings, None))
            continue
        parts.append(_table(f"[{field.name}]", field.type, field.name))
        if field.name == "auth":
            parts.append(_table("[[auth.keys]]", Key, None))
    return "\n".join(parts)


def _table(title: str, section: Any, environment: str | None) -> str:
    about = " ".join((section.__doc__ or "").split())
    lines = [f"### `{title}`", "", about, "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(section):
        meaning = (description(field.type).description or "").replace("|", "\\|")
        lines.append(f"| `{field.name}` | {_default(field)} | {allowed(field.type)} | {meaning} |")
    if environment is not None:
        first = msgspec.structs.fields(section)[0].name
        lines += ["", f"Environment: `DUOLINK_{environment.upper()}_…`, as in "
                  f"`DUOLINK_{environment.upper()}_{first.upper()}`."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "(required)"
    if get_origin(field.type) is list or field.default is msgspec.NODEFAULT:
        return "`[]`"
    if field.default is None:
        return "automatic" if _is_automatic(field) else "not set"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, str):
        return f'`"{field.default}"`'
    return f"`{number(field.default)}`"


def _is_automatic(field: msgspec.structs.FieldInfo) -> bool:
    text = description(field.type).description or ""
    return "Automatic" in text or field.name.endswith(("_per_s", "_burst"))


def updated(text: str) -> str:
    """Return the document's text with the tables of now between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text("utf-8")), "utf-8")
