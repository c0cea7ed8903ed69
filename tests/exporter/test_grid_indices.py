"""Indices computed in the graph equal those of the host, to the bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxscript import GraphBuilder

from qvl_export.graph import grid_indices as indices
from qvl_export.graph.build import INT64, add_input
from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.positions import Grid
from qvl_runtime.sessions.feeds import vision_feeds

MERGE = 2
cells = st.integers(1, 40)
grids = st.builds(lambda t, h, w: Grid(t, h * MERGE, w * MERGE), st.integers(1, 3), cells, cells)


def geometry(window: int, table: int) -> ImageGeometry:
    return ImageGeometry(
        patch_size=14,
        temporal_patch_size=2,
        spatial_merge_size=MERGE,
        min_pixels=1,
        max_pixels=1,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        window=window,
        position_table=table,
    )


def in_graph(image: ImageGeometry) -> ort.InferenceSession:
    """A graph of nothing but indices."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="indices")
    image_grid_thw = add_input(graph, "image_grid_thw", INT64, [1, 3])
    op = GraphBuilder(graph).op
    grid = indices.grid_of(op, image_grid_thw)
    places = indices.patch_coordinates(op, grid, MERGE)
    outputs = {"patch_positions": indices.patch_positions(op, grid, places)}
    if windows := indices.windows(op, grid, image):
        assert windows.size == (image.window * MERGE) ** 2
        outputs |= {"window_gather": windows.gather, "window_scatter": windows.scatter}
        outputs["window_lengths"] = windows.lengths
    if nearest := indices.interpolation(op, grid, places, image):
        outputs |= dict(zip(("interpolation_indices", "interpolation_weights"), nearest, strict=True))
    for name, value in outputs.items():
        value.name = name
        graph.outputs.append(value)
    return ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString())


@pytest.mark.parametrize(("window", "table"), [(0, 0), (4, 0), (3, 0), (0, 7), (0, 48)])
def test_they_are_those_of_the_host(window: int, table: int) -> None:
    image = geometry(window, table)
    session = in_graph(image)

    @settings(deadline=None)
    @given(grids)
    def check(grid: Grid) -> None:
        theirs = vision_feeds(image, grid)
        names = [output.name for output in session.get_outputs()]
        assert set(names) == set(theirs)
        feeds = {"image_grid_thw": np.array([[grid.t, grid.h, grid.w]])}
        for name, ours in zip(names, session.run(names, feeds), strict=True):
            assert ours.dtype == theirs[name].dtype
            assert np.array_equal(ours, theirs[name]), name

    check()
