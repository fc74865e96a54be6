"""Refusals of the endpoint, independent of the API in whose format they are written. Pure Python."""

from __future__ import annotations


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: names what was found, what is expected and the remedy.
        param: the request's field at fault, if one is.
        code: a short name that clients may look at.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def kind(self) -> str:
        """Type of the error, as both APIs name it."""
        if self.status == 413:
            return "request_too_large"
        if self.status >= 500:
            return "api_error"
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "invalid_request_error")


def unsupported(param: str, found: object, expected: str) -> ApiError:
    """Make the refusal of a parameter that this endpoint cannot honour."""
    return ApiError(
        400, f"{param}={found!r} is not supported: expected {expected}.", param=param, code="unsupported_parameter"
    )


def too_long(context: int, limit: int) -> ApiError:
    """Make the refusal of a context without room for an answer; clients know the code and compact their context."""
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens, and the messages have {context}. Please reduce the "
        "length of the messages.",
        param="messages",
        code="context_length_exceeded",
    )
