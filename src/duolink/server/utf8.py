"""UTF-8 checked piece by piece."""

import codecs

_decoder = codecs.getincrementaldecoder("utf-8")


class UTF8Check:
    """Checks a text that arrives in pieces, failing at the first byte that cannot be part of it.

    Feed every piece in order; the last one with `final`. Raises UnicodeDecodeError (a ValueError).
    """

    __slots__ = ("_decode", "_state")

    def __init__(self) -> None:
        decoder = _decoder()
        self._decode = decoder.decode
        self._state = decoder.getstate

    def feed(self, piece: bytes, final: bool) -> None:
        """Check the next piece; `final` also refuses a character that is cut off."""
        self._decode(piece, final)
        # CPython waits for the third byte of an encoded surrogate (ED A0..BF xx), though the second
        # already cannot begin any character.
        pending = self._state()[0]
        if len(pending) > 1 and pending[0] == 0xED and pending[1] > 0x9F:
            raise UnicodeDecodeError("utf-8", pending, 0, 2, "surrogates not allowed")
