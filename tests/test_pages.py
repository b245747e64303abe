"""Pages stand alone: pictures are inside them, small and the same each time."""

import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from PIL import Image

from pyrovae.comparison import pages
from pyrovae.comparison.page import TEMPLATE


def opened(uri):
    kind, _, content = uri.partition(";base64,")
    assert kind == "data:image/png"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_picture_is_shrunk_to_the_width_and_keeps_its_shape_and_its_greys(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 1800).astype(np.uint8), (600, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    small = opened(pages.picture(tmp_path / "ramp.png", 900))
    assert small.size == (900, 300)
    np.testing.assert_allclose(np.asarray(small.convert("L"))[150], np.linspace(0, 255, 900), atol=3)
    assert opened(pages.picture(tmp_path / "ramp.png", 5000)).size == (1800, 600)


def test_a_drawing_is_the_same_for_the_same_figure():
    def figure():
        made = Figure()
        made.subplots().plot([0, 1], [1, 3], clip_on=True)
        return made

    first = pages.drawing(figure())
    assert first == pages.drawing(figure())
    assert b"<svg" in base64.b64decode(first.partition(",")[2])[:800]
    assert len(first) > 1000


def test_a_page_that_lacks_something_is_no_page(tmp_path):
    with pytest.raises(UndefinedError):
        pages.render(TEMPLATE, title="only that")
    (tmp_path / "page.html").write_text("{{ x }}")
    assert pages.render(tmp_path / "page.html", x="<b> & 1") == "&lt;b&gt; &amp; 1"
