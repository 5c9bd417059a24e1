"""
Refusals of the fake hub.
"""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.responses import Response


def problem(status: int, code: str, detail: str) -> Response:
    """
    Return a refusal as the hub writes it (RFC 9457).
    """
    body = {"title": code, "status": status, "detail": detail, "code": code, "details": {}}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")
