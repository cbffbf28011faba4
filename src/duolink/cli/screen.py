"""A conversation on a terminal: lines above, one line of typing below that nothing disturbs."""

import asyncio
import codecs
import os
import shutil
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from rich.cells import cell_len

from duolink.cli.terminal import printable

KEPT_LINES: Final = 200
"""Lines above that can still be changed, as long as they are on the screen."""

_ENTER, _END, _ERASE, _WORD, _KILL, _REDRAW = "\r\n", "\x04", "\x7f\b", "\x17", "\x15", "\x0c"


class Line:
    """A printed line whose mark may change."""

    __slots__ = ("mark", "rows", "text")

    def __init__(self, text: str, mark: str) -> None:
        self.text, self.mark, self.rows = text, mark, 1


class Screen:
    """A terminal in character mode, restored by `close`.

    `entered` gets each line, `typing` is called for every key, `ended` for Ctrl-D on an empty line.
    """

    def __init__(
        self, entered: Callable[[str], Any], typing: Callable[[], Any], ended: Callable[[], Any]
    ) -> None:
        self._entered, self._typing, self._ended = entered, typing, ended
        self._descriptor = sys.stdin.fileno()
        self._mode = termios.tcgetattr(self._descriptor)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._typed = ""
        self._escape = False  # inside a sequence of a key that is not understood
        self._prompt = ""
        self._note = ""
        self._lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self._width = shutil.get_terminal_size().columns
        tty.setcbreak(self._descriptor)
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Give the terminal back."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._mode)
        self._write("\r\x1b[K")

    def prompt(self, text: str, note: str = "") -> None:
        """Change what stands before (and, dimmed, behind) the line of typing."""
        if (text, note) != (self._prompt, self._note):
            self._prompt, self._note = text, note
            self._draw()

    def print(self, text: str, mark: str = "") -> Line:
        """Add a line above."""
        line = Line(printable(text), mark)
        shown = self._shown(line)
        self._measure()
        line.rows = max(-(-cell_len(shown) // self._width), 1)
        self._lines.append(line)
        self._write(f"\r\x1b[K{shown}\n")
        self._draw()
        return line

    def mark(self, line: Line, mark: str) -> bool:
        """Change a line's mark. Returns False when it has left the screen."""
        self._measure()
        line.mark = mark
        up, found = 0, False
        for other in reversed(self._lines):
            up += other.rows
            if other is line:
                found = True
                break
        shown = self._shown(line)
        if not found or up >= shutil.get_terminal_size().lines or cell_len(shown) > line.rows * self._width:
            return False
        self._write(f"\x1b7\x1b[{up}A\r{shown}\x1b[K\x1b8")
        return True

    def _shown(self, line: Line) -> str:
        return f"{line.text}  {line.mark}" if line.mark else line.text

    def _measure(self) -> None:
        width = max(shutil.get_terminal_size().columns, 8)
        if width != self._width:  # what was printed has been folded anew: it is where it is
            self._width = width
            self._lines.clear()

    def _draw(self) -> None:
        """Show the end of what is typed, as much as fits into one row."""
        room = max(self._width - cell_len(self._prompt) - 1, 4)
        typed = printable(self._typed)
        while cell_len(typed) > room:
            typed = typed[1:]
        note = self._note if cell_len(typed) + cell_len(self._note) + 2 <= room else ""
        tail = f"\x1b7  \x1b[2m{note}\x1b[0m\x1b8" if note else ""
        self._write(f"\r\x1b[K{self._prompt}{typed}{tail}")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:
            data = b""
        if not data:
            self._ended()
            return
        for char in self._decode(data):
            self._key(char)
        self._draw()

    def _key(self, char: str) -> None:
        if self._escape:
            self._escape = not (char.isalpha() or char == "~")
        elif char == "\x1b":
            self._escape = True
        elif char in _ENTER:
            typed, self._typed = self._typed, ""
            if typed:
                self._entered(typed)
        elif char == _END:
            if not self._typed:
                self._ended()
        elif char in _ERASE:
            self._typed = self._typed[:-1]
        elif char == _WORD:
            self._typed = self._typed.rstrip().rpartition(" ")[0]
        elif char == _KILL:
            self._typed = ""
        elif char != _REDRAW and (char.isprintable() or char == "\t"):
            self._typed += char
            self._typing()
