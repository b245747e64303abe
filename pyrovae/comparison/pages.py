"""Self-contained HTML pages with embedded pictures, which need no network and no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pyrovae.lazy import LazyModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

matplotlib = LazyModule("matplotlib")
jinja2 = LazyModule("jinja2")


def render(template: Path, **content: Any) -> str:
    """The page of a template file."""
    # Escaped, because a value of a recipe may contain < and quotes.
    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(**options).from_string(template.read_text()).render(content)


def drawing(figure: Figure) -> str:
    """A figure as a data URI in SVG, identical for identical figures."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": ""}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _uri("svg+xml", buffer.getvalue().encode())


def picture(path: Path, width: int = 900) -> str:
    """A picture file as a data URI in PNG, at most `width` pixels wide and with 128 colours."""
    try:
        with Image.open(path, formats=["PNG"]) as found:  # for another format Pillow would start Ghostscript
            image = found.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a picture in PNG, found a damaged file ({error})") from None
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return _uri("png", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
