"""Curves of growth are told point by point, with the step at which a cliff would be."""

from __future__ import annotations

from tests.bench import growth
from tests.bench.growth import Point


def points(curve: str, **ns_at: float) -> list[Point]:
    """Keyword x2=10.0: at 2, 10 ns."""
    return [Point(curve, int(x[1:]), {"frame": ns}) for x, ns in ns_at.items()]


def test_the_steepest_step_is_named() -> None:
    those = points("ports", x2=10.0, x4=11.0, x8=33.0, x16=40.0)
    found = growth.steepest(those, "frame")
    assert found is not None
    assert found == (3.0, those[2])
    assert growth.steepest(those[:1], "frame") is None


def test_a_curve_is_in_order_whatever_order_its_points_were_measured_in() -> None:
    mixed = [*points("ports", x8=3.0, x2=1.0), *points("bridges", x1=5.0)]
    assert {name: [p.x for p in those] for name, those in growth.curves(mixed).items()} == {
        "ports": [2, 8],
        "bridges": [1],
    }


def test_the_page_has_a_row_for_each_thing_measured() -> None:
    lines = growth.markdown(points("ports", x2=10.0, x256=33.0))
    assert "| ports | 2 | 256 | steepest step |" in lines
    assert "| frame | 10.0 | 33.0 | 3.30 times, to 256 |" in lines
    assert not growth.markdown([])
    (title, row) = growth.text(points("rules", x1=10.0))
    assert "rules at a bridge's ingress" in title
    assert "1: 10.0" in row


def test_points_of_a_curve_take_turns_up_and_down() -> None:
    order: list[int] = []

    def one(x: int) -> dict[str, float]:
        order.append(x)
        return {"frame": float(x * len(order))}

    found = growth._measured("ports", (1, 2), 3, one, lambda _: None)
    assert order == [1, 2, 2, 1, 1, 2]
    assert found == [Point("ports", 1, {"frame": 4.0}), Point("ports", 2, {"frame": 6.0})]
