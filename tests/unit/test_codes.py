"""The close codes and who comes back after them."""

import pytest

from duolink.protocol.codes import CloseCode, ErrorCode, LossReason, may_reconnect

BACK = {1000, 1001, 1005, 1006, 1011, 1012, 1013, *range(3000, 3500)}


def test_a_code_alone_decides_whether_to_come_back() -> None:
    """The whole range: 1xxx by name, 3000–3499 always, everything else never."""
    assert {code for code in range(0, 5000) if may_reconnect(code)} == BACK


@pytest.mark.parametrize("code", CloseCode)
def test_every_code_of_ours_fits_a_close_frame(code: CloseCode) -> None:
    assert 1000 <= code <= 1013 or 3000 <= code <= 3999


def test_terminal_codes_of_ours_are_those_from_3500_on() -> None:
    ours = [code for code in CloseCode if code >= 3000]
    assert [code for code in ours if not may_reconnect(code)] == [code for code in ours if code >= 3500]


def test_words_of_the_wire_are_short_and_plain() -> None:
    for word in [*ErrorCode, *LossReason]:
        assert word.isidentifier() and word.islower() and len(word) <= 32
