"""What every `Bus` promises."""


def test_a_subject_is_delivered_in_order_to_its_subscriber(bench):
    seen: list[bytes] = []
    bench.engines.bus.subscribe("a", seen.append)
    for number in range(10):
        bench.engines.bus.publish("a", b"%d" % number)
        bench.engines.bus.publish("b", b"other")
    bench.settle()
    assert seen == [b"%d" % number for number in range(10)]


def test_after_unsubscribe_nothing_comes_not_even_what_was_under_way(bench):
    seen: list[bytes] = []
    bench.engines.bus.subscribe("a", seen.append)
    bench.settle()
    bench.engines.bus.publish("a", b"1")
    before = list(seen)
    bench.engines.bus.unsubscribe("a")
    bench.engines.bus.unsubscribe("a")
    bench.settle()
    assert seen == before


def test_a_second_subscription_replaces_the_first(bench):
    first: list[bytes] = []
    second: list[bytes] = []
    bench.engines.bus.subscribe("a", first.append)
    bench.engines.bus.subscribe("a", second.append)
    bench.engines.bus.publish("a", b"1")
    bench.settle()
    assert (first, second) == ([], [b"1"])
