"""A box with an edge that no image reaches is a mistake: left out and counted, never clipped to a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistruct.data.formats.boxes.objects import FAR, ImageObjects
from vistruct.issues import IssueCounter


@pytest.mark.parametrize("edge", [1e7 + 1, 1e23, 3e38, -1e12])
def test_boxes_with_an_edge_far_away_are_left_out(edge: float) -> None:
    found, report = ImageObjects(record_id="a", path=Path("a.png"), size_hw=(64, 64)), IssueCounter()
    edges = (1.0, 1.0, edge, 9.0) if edge > 0 else (edge, 1.0, 9.0, 9.0)
    assert not found.add_box(edges, 0, "annotation 1", report)
    x0, y0, x1, y1 = edges
    assert not found.add_quad(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), 0, "annotation 2", report)
    assert report.counts == {FAR: 2}
    assert found.add_box((1.0, 1.0, 100.0, 9.0), 0, "annotation 3", report)
