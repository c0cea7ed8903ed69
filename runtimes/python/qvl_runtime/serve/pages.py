"""Pages of a file as pictures, for the server's own page: browsers draw no PDF below boxes, and no TIFF."""

from __future__ import annotations

import base64
import io
from typing import Any

import msgspec
from PIL import Image

from ..manifest import ImageGeometry
from ..requests.errors import ApiError
from ..requests.media import MediaReader
from ..resize import smart_resize

MAX_PNG_BYTES = 8 << 20
"""A page whose PNG would be larger is a JPEG: an A4 page at 150 dpi is a PNG, whatever is on it."""
JPEG_QUALITY = 95


class PageRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The value of a `file` part, and the page of it that is wanted, counted from 1."""

    file: dict[str, Any]
    page: int = 1


def read_page_request(body: bytes) -> PageRequest:
    """Returns the request in a body; raises ApiError 400."""
    try:
        return msgspec.json.decode(body, type=PageRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not a file and a page: {str(error)[:200]}", code="invalid_json") from error


def rendered(request: PageRequest, media: MediaReader, geometry: ImageGeometry) -> dict[str, Any]:
    """Returns the page as a picture in a `data:` URL, with its place in the file.

    A page with more pixels than the model takes has the size to which the model would resize it: sent back, it is not
    resized again, and boxes are in pixels of this picture.
    """
    image, count = media.page(request.file, request.page)
    image = _scaled_down(image, geometry)
    place = {"object": "page", "page": request.page, "pages": count}
    return {**place, "width": image.width, "height": image.height, "image_url": {"url": _data_url(image)}}


def _scaled_down(image: Image.Image, geometry: ImageGeometry) -> Image.Image:
    if image.width * image.height <= geometry.max_pixels:
        return image
    height, width = smart_resize(image.height, image.width, geometry.factor, 1, geometry.max_pixels)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _data_url(image: Image.Image) -> str:
    """Returns a PNG, or a JPEG if that is too large, as a `data:` URL."""
    file, kind = io.BytesIO(), "png"
    image.save(file, "PNG", compress_level=1)
    if len(file.getbuffer()) > MAX_PNG_BYTES:
        file, kind = io.BytesIO(), "jpeg"
        image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(file.getbuffer()).decode()}"
