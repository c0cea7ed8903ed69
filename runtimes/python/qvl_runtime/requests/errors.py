"""Errors of the server in the form of OpenAI's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InstallError, Interrupted, MediaError, PromptError, QvlError

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is answered with an HTTP `status` and a message in one line.

    `param` is the field that is at fault, `code` a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Returns the JSON value of the answer."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def unsupported(what: str, param: str | None = None, fix: str = "") -> ApiError:
    """Returns the error for something that the interface has and this server has not."""
    hint = f" ({fix})" if fix else ""
    return ApiError(400, f"{what} is not supported{hint}", param=param, code="unsupported_parameter")


def as_api_error(error: BaseException) -> ApiError:
    """Returns how a client is told of an exception; what the client did not cause is told without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptError | MediaError):
        return ApiError(400, str(error))
    if isinstance(error, Interrupted):
        return ApiError(503, str(error), code="timeout") if error.late else ApiError(499, str(error))
    if isinstance(error, InstallError):
        return ApiError(501, str(error), code="not_installed")
    if isinstance(error, MemoryError):
        return ApiError(503, "not enough memory for this request", code="out_of_memory")
    return ApiError(500, str(error) if isinstance(error, QvlError) else "internal error", code="internal_error")
