"""Methods timed in turns."""

from collections.abc import Callable

from dynconv.bench.turns import medians


def method(name: str, seconds: list[float], log: list[str]) -> Callable[[], float]:
    left = iter(seconds)

    def run() -> float:
        log.append(name)
        return next(left)

    return run


def test_the_median_of_the_rounds_after_the_one_that_warms_up() -> None:
    log: list[str] = []

    found = medians({"a": method("a", [99, 1, 5, 2], log), "b": method("b", [99, 3, 3, 4], log)}, 3)

    assert found == {"a": 2, "b": 3}
    assert "".join(log) == "abbaabba"


def test_a_method_without_hope_is_timed_once() -> None:
    log: list[str] = []

    found = medians({"a": method("a", [9, 1, 1], log), "b": method("b", [9, 6], log)}, 2, hopeless=5)

    assert found == {"a": 1, "b": 6}
    assert log.count("b") == 2
