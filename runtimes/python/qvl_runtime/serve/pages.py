"""Pages of a file as pictures, for the server's own page: browsers draw no PDF below boxes, and no TIFF."""

from __future__ import annotations

import base64
import io
from typing import Any

import msgspec

from .errors import ApiError
from .media import MediaReader


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


def rendered(request: PageRequest, media: MediaReader) -> dict[str, Any]:
    """Returns the page as the model would see it, before it is resized: a PNG as a `data:` URL, with its place."""
    image, count = media.page(request.file, request.page)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    place = {"object": "page", "page": request.page, "pages": count}
    return {**place, "width": image.width, "height": image.height, "image_url": {"url": url}}
