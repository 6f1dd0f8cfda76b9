"""The law by which names are drawn: that of Go's priority sampler (section 15 of the protocol)."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import table

from packhorse.protocols.gocraft.draw import MAX_DRAWS, MAX_NAMES, Draw

DRAWS = 20_000
#: What chi-square exceeds by chance once in a thousand, by degrees of freedom.
BOUND = {1: 10.83, 2: 13.82, 5: 20.52, 23: 49.73}

TABLES: list[dict[str, Any]] = table("sampler")


def drawing(priorities: dict[str, int], seed: int) -> Draw:
    """All names have something to run."""
    draw = Draw(priorities, random.Random(seed))
    for name in priorities:
        assert draw.mark(name)
    return draw


def chi_square(seen: Counter[str], expected: dict[str, float], total: int) -> float:
    assert sum(seen.values()) == total
    assert set(seen) <= set(expected)
    return sum((seen[name] - total * p) ** 2 / (total * p) for name, p in expected.items())


@pytest.mark.parametrize("total", [1, 7, 500])
@pytest.mark.parametrize("golden", TABLES[:3], ids=lambda golden: "-".join(map(str, golden["priorities"].values())))
def test_the_order_of_names_follows_gos_law(golden: dict[str, Any], total: int) -> None:
    """Also for batches: what the first names cannot fill is offered in the order of the rest."""
    draw = drawing(golden["priorities"], seed=1)
    seen = Counter(",".join(name for name, _ in draw.pick(total)) for _ in range(DRAWS))
    expected = {order: p for order, p, *_ in golden["orders"]}
    assert chi_square(seen, expected, DRAWS) < BOUND[golden["degrees_of_freedom"]]


def test_one_in_a_hundred_thousand_is_drawn_now_and_then() -> None:
    draw = drawing(TABLES[3]["priorities"], seed=1)
    firsts = Counter(draw.pick(1)[0][0] for _ in range(DRAWS * 10))
    assert 0 < firsts["low"] < 10


@pytest.mark.parametrize(
    ("runnable", "shares"),
    [
        (("p10", "p3", "p1"), (10 / 14, 3 / 14, 1 / 14)),
        (("p10", "p3"), (0.7692, 0.2308)),
        (("p10", "p1"), (0.9091, 0.0909)),
        (("p3", "p1"), (0.75, 0.25)),
    ],
)
def test_a_name_gets_jobs_in_proportion_to_its_priority(runnable: tuple[str, ...], shares: tuple[float, ...]) -> None:
    draw = drawing({"p10": 10, "p3": 3, "p1": 1}, seed=2)
    for name in {"p10", "p3", "p1"} - set(runnable):
        draw.empty(name)
    one_by_one = Counter(draw.pick(1)[0][0] for _ in range(DRAWS))
    assert chi_square(one_by_one, dict(zip(runnable, shares, strict=True)), DRAWS) < BOUND[len(runnable) - 1]

    in_batches: Counter[str] = Counter()
    for _ in range(DRAWS):
        in_batches.update(dict(draw.pick(100)))
    for name, share in zip(runnable, shares, strict=True):
        deviation = (share * (1 - share) / (DRAWS * MAX_DRAWS)) ** 0.5
        assert in_batches[name] / (DRAWS * 100) == pytest.approx(share, abs=4 * deviation)


@given(
    priorities=st.dictionaries(st.text(max_size=5), st.integers(1, 100_000), min_size=1, max_size=40),
    total=st.integers(1, 2000),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_the_shares_of_a_batch_add_up(priorities: dict[str, int], total: int, seed: int) -> None:
    picked = drawing(priorities, seed).pick(total)
    names = [name for name, _ in picked]
    assert sum(share for _, share in picked) == total
    assert min(share for _, share in picked) >= 0
    assert len(names) == len(set(names)) <= MAX_NAMES
    assert set(names) <= set(priorities)


def test_only_names_of_this_pool_that_may_have_jobs_are_drawn() -> None:
    draw = Draw({"a": 1, "b": 1})
    assert draw.pick(10) == []
    assert not draw.mark("foreign")
    draw.mark("a")
    assert draw.pick(10) == [("a", 10)]
    draw.block("a", until=5.0)
    draw.mark_found(["a", "b"], now=4.9)
    assert draw.pick(10) == [("b", 10)]
    draw.mark_found(["a"], now=5.0)
    assert {name for name, _ in draw.pick(10)} == {"a", "b"}
