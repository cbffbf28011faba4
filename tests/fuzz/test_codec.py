"""The codec holds for the corpus and for a first thousand of mutations; for many more in `make fuzz`."""

import os

import pytest

from duolink.protocol import codec
from tests.fuzz import codec as fuzz


@pytest.mark.parametrize("end", fuzz.DECODERS)
def test_the_corpus_breaks_nothing(end: str) -> None:
    for payload in fuzz.corpus():
        fuzz.check(payload, fuzz.DECODERS[end])


def test_mutations_break_nothing() -> None:
    done, through = fuzz.run(seed=1, count=1500)
    assert done == 1500
    assert through > 300, "what never gets through the decoder tests only its refusals"


def test_a_codec_that_lets_newlines_through_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: split after decoding instead of before, and user data forges lines."""

    def text(self: codec.Decoder, payload: bytes) -> list[object]:
        return [self._decode(payload)]

    monkeypatch.setattr(codec.Decoder, "text", text)
    with pytest.raises(fuzz.Broken):
        fuzz.check(
            b'{"type":"message","to":"b","run":1,"seq":1,"base":1,"data":[\n{"type":"pong"}\n]}', codec.CLIENT
        )


@pytest.mark.fuzz
def test_mutations_break_nothing_for_long() -> None:
    """`FUZZ_SECONDS` (60), `FUZZ_SEED` (1)."""
    seed, seconds = int(os.environ.get("FUZZ_SEED", "1")), float(os.environ.get("FUZZ_SECONDS", "60"))
    done, through = fuzz.run(seed, seconds=seconds)
    assert done and through
