"""A page to try it: static files, which call the API from the browser within its keys, limits and log."""

import hashlib
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from lekhani.serve.assets import FILES, FONT, POLICY, policy, web_font

HEADERS = {
    "Content-Security-Policy": policy(POLICY),
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a browser asks with the ETag, so a new version is seen at once
}


class _Files(StaticFiles):
    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:
        """See Starlette; with HEADERS, and without a line in the log."""
        scope["lekhani_asset"] = True
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page at "/" of an application of `api.create_app`, and its files below /page/."""
    files, font = _Files(directory=FILES), web_font()
    etag = f'"{hashlib.sha256(font).hexdigest()[:32]}"'

    @app.get(f"/page/font/{FONT}", include_in_schema=False)
    async def devanagari(request: Request) -> Response:
        request.scope["lekhani_asset"] = True
        headers = {**HEADERS, "ETag": etag}
        if request.headers.get("If-None-Match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(font, headers=headers, media_type="font/woff")

    app.mount("/page", files)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)
