"""Rate limits: buckets in debt, admission with spread answers, the bounded table of addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duolink.server.ratelimit import (
    MAX_RETRY_AFTER,
    Address,
    Addresses,
    Admission,
    Bucket,
    Throttle,
    address_key,
    client_address,
    make_throttle,
)
from duolink.server.settings import Auth, Config, Listen, Rates


def config(max_connections_per_address: int = 0, **rates: int) -> Config:
    return Config(
        auth=Auth(external=True),
        listen=Listen(max_connections_per_address=max_connections_per_address),
        rates=Rates(**rates),
    )


def opened(table: Addresses, address: str, now: float = 0.0) -> Address:
    entry = table.open(address, now)
    assert isinstance(entry, Address), entry
    return entry


# --- buckets


def test_a_burst_passes_and_debt_pauses():
    bucket = Bucket(rate=10, burst=5)
    assert [bucket.take(1, 0.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(1, 0.0) == pytest.approx(0.1)
    assert bucket.take(2, 0.0) == pytest.approx(0.3)


def test_after_its_pause_a_sender_goes_on():
    bucket = Bucket(rate=10, burst=5)
    pause = bucket.take(25, 0.0)
    assert pause == pytest.approx(2.0)
    assert bucket.level(pause) == pytest.approx(0.0)
    assert bucket.take(1, pause + 0.1) == pytest.approx(0.0)


def test_a_bucket_never_holds_more_than_its_burst():
    bucket = Bucket(rate=10, burst=5, now=100.0)
    assert bucket.level(1e9) == 5


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(rate=10, burst=5, now=100.0)
    bucket.take(5, 100.0)
    assert bucket.level(50.0) == 0
    assert bucket.level(100.1) == pytest.approx(1.0)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_a_bucket_needs_a_rate_and_a_burst(rate, burst):
    with pytest.raises(ValueError, match="more than 0"):
        Bucket(rate, burst)


@given(
    rate=st.floats(0.5, 1000),
    burst=st.floats(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), max_size=60),
)
def test_a_sender_who_heeds_the_pauses_never_exceeds_rate_and_burst(rate, burst, steps):
    bucket = Bucket(rate, burst)
    now, taken, last = 0.0, 0, 0
    for wait, amount in steps:
        now += wait
        taken, last = taken + amount, amount
        now += bucket.take(amount, now)
        assert taken - last <= burst + rate * now + 1e-6 * (1 + taken)


def test_a_throttle_pauses_for_the_slowest_of_its_buckets():
    throttle = Throttle([Bucket(10, 10), Bucket(1, 10)], [Bucket(1000, 1000)])
    assert throttle.take(10, 100, 0.0) == 0.0
    assert throttle.take(1, 100, 0.0) == pytest.approx(1.0)
    assert throttle.take(0, 5800, 0.0) == pytest.approx(5.0)


def test_throttles_add_up_and_share_their_buckets():
    shared = Throttle([Bucket(1, 1)], [])
    first, second = shared + Throttle([], []), Throttle([Bucket(100, 100)], []) + shared
    assert first.take(1, 0, 0.0) == 0.0
    assert second.take(1, 0, 0.0) == pytest.approx(1.0)


def test_a_throttle_without_limits_is_false():
    assert not make_throttle(Config(), "connection", 0.0)
    assert not Throttle([], []) + Throttle([], [])
    assert make_throttle(config(), "client", 0.0)
    assert Throttle([], [Bucket(1, 1)])


def test_the_settings_make_the_throttle():
    limited = config(client_messages_per_s=1, client_messages_burst=2, client_bytes_per_s=0)
    throttle = make_throttle(limited, "client", 5.0)
    assert throttle.take(3, 10**9, 5.0) == pytest.approx(1.0)


# --- admission


def test_admission_lets_the_burst_in_and_spreads_the_rest():
    door = Admission(rate=10, burst=3)
    assert [door.admit(0.0) for _ in range(3)] == [None] * 3
    assert [door.admit(0.0) for _ in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert door.admit(0.1) is None


def test_nobody_is_asked_to_wait_longer_than_the_cap():
    door = Admission(rate=1, burst=1)
    assert door.admit(0.0) is None
    answers = [door.admit(0.0) or 0.0 for _ in range(1000)]
    assert max(answers) == MAX_RETRY_AFTER
    assert min(answers) >= 1.0
    assert len(set(answers)) == 30, "the crowd is spread over the whole time"


def test_a_crowd_that_heeds_the_answers_is_let_in_at_the_rate():
    door = Admission(rate=100, burst=50)
    waiting = [0.0] * 500
    admitted: list[float] = []
    while waiting:
        now = min(waiting)
        waiting.remove(now)
        again = door.admit(now)
        if again is None:
            admitted.append(now)
        else:
            waiting.append(now + again)
    assert len(admitted) == 500
    assert 4.4 <= max(admitted) <= 9.0
    assert sum(1 for at in admitted if at < 1.0) <= 150


# --- addresses


def test_handshakes_are_limited_per_address():
    table = Addresses(config(handshakes_per_s=1, handshakes_burst=2))
    opened(table, "192.0.2.1")
    opened(table, "192.0.2.1")
    assert table.open("192.0.2.1", 0.0) == "rate"
    opened(table, "192.0.2.2")
    opened(table, "192.0.2.1", 1.0)


def test_a_refused_handshake_costs_nothing():
    table = Addresses(config(handshakes_per_s=1, handshakes_burst=1))
    table.close(opened(table, "192.0.2.1"))
    assert [table.open("192.0.2.1", 0.5) for _ in range(9)] == ["rate"] * 9
    opened(table, "192.0.2.1", 1.0)


def test_connections_at_once_are_limited_per_address():
    table = Addresses(config(2, handshakes_per_s=0))
    first = opened(table, "192.0.2.1")
    assert opened(table, "192.0.2.1") is first
    assert table.open("192.0.2.1", 0.0) == "connections"
    opened(table, "192.0.2.2")
    table.close(first)
    opened(table, "192.0.2.1")


def test_connections_of_an_address_share_its_throttle():
    table = Addresses(config(address_messages_per_s=1, address_messages_burst=1))
    one, other = opened(table, "2001:db8::1"), opened(table, "2001:db8::2")
    assert one is other
    assert one.throttle.take(1, 0, 0.0) == 0.0
    assert other.throttle.take(1, 0, 0.0) == pytest.approx(1.0)


def test_an_address_is_remembered_after_its_connections_closed():
    table = Addresses(config(handshakes_per_s=1, handshakes_burst=1))
    table.close(opened(table, "192.0.2.1"))
    assert len(table) == 1
    assert table.open("192.0.2.1", 0.0) == "rate"


def test_the_table_is_bounded_and_forgets_the_longest_idle():
    table = Addresses(config(handshakes_per_s=1, handshakes_burst=1), max_idle=3)
    held = opened(table, "192.0.2.200")
    for n in range(10):
        table.close(opened(table, f"192.0.2.{n}"))
    assert len(table) == 4
    assert table.open("192.0.2.9", 0.0) == "rate"
    opened(table, "192.0.2.0")  # forgotten
    assert table.open("192.0.2.200", 0.0) == "rate"
    table.close(held)


def test_in_development_nothing_is_limited():
    table = Addresses(Config())
    for _ in range(2000):
        opened(table, "127.0.0.1")
    assert len(table) == 1


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("x" * 100, "x" * 64),
    ],
)
def test_what_counts_as_one_address(address, key):
    assert address_key(address) == key


TRUSTED = ["10.0.0.0/8", "::1"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, junk", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, junk, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", ",", "10.0.0.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_a_forwarded_address_is_believed_from_trusted_proxies_only(peer, forwarded, client):
    assert client_address(peer, forwarded, TRUSTED) == client


def test_without_trusted_proxies_no_header_counts():
    assert client_address("10.0.0.1", "198.51.100.1", []) == "10.0.0.1"
