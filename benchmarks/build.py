"""Compiles the peers and the load generator into `benchmarks/build`."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
BUILD: Final = HERE / "build"
TIMEOUT: Final = 300.0
"""Seconds for one compilation, the download of gorilla/websocket included."""

DEBIAN_GORILLA: Final = Path("/usr/share/gocode")
"""Where Debian's golang-github-gorilla-websocket-dev puts its source, for when nothing can be downloaded."""


class BuildError(Exception):
    """Something is missing or does not compile; the message says what to do."""


def build() -> None:
    """Build whatever is older than its source. Raises `BuildError`."""
    BUILD.mkdir(exist_ok=True)
    _c(HERE / "peers" / "floor" / "floor.c", BUILD / "floor")
    _go(HERE / "peers" / "gorilla", BUILD / "gorilla")
    _go(HERE / "load", BUILD / "load")


def _c(source: Path, target: Path) -> None:
    if not _is_current(target, [source]):
        compiler = _tool("cc", "gcc")
        _run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)], source.parent)


def _go(folder: Path, target: Path) -> None:
    if _is_current(target, list(folder.iterdir())):
        return
    command = [_tool("go", "golang-go"), "build", "-o", str(target), "."]
    try:
        _run(command, folder)
    except BuildError:
        if not DEBIAN_GORILLA.exists():
            raise
        _run(command, folder, {"GO111MODULE": "off", "GOPATH": str(DEBIAN_GORILLA)})


def _is_current(target: Path, sources: list[Path]) -> bool:
    return target.exists() and all(source.stat().st_mtime <= target.stat().st_mtime for source in sources)


def _tool(name: str, package: str) -> str:
    """Find a compiler; as root on Debian, install it when it is missing."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/go/bin"])
    found = shutil.which(name, path=path)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _run(["apt-get", "install", "-y", "--no-install-recommends", package], HERE)
        found = shutil.which(name, path=path)
    if found is None:
        raise BuildError(f"`{name}` is missing: install it (Debian: apt-get install {package})")
    return found


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"`{' '.join(command)}` took longer than {TIMEOUT:.0f} s") from None
    if result.returncode:
        raise BuildError(f"`{' '.join(command)}` failed:\n{result.stderr or result.stdout}")
