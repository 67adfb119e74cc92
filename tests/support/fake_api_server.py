"""An https server that does of an API server what a CA asks of it: keys and reviews, and what a test wants wrong."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshpki.ca.config_clusters import ApiServerSettings
from meshpki.tokens.policy import ClusterPolicy
from support.reviews import caller_of, confirmed, refused
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.jwks_server import Handler, JwksServer

MAKER = TokenMaker()


@dataclass
class Kubernetes:
    """An https server that answers /openid/v1/jwks and reviews, and keeps who asked for what."""

    server: JwksServer
    directory: Path
    maker: TokenMaker = MAKER
    """Of its tokens."""
    reviews: list[str] = field(default_factory=list)
    """Credential and token of each."""
    verdict: Callable[[str], tuple[int, bytes]] | None = None
    hanging: tuple[str, ...] = ()
    """Parts of paths: a request for one of these gets no answer before `released`."""
    hung: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.token_file.write_text("reviewer-1\n")
        self.server.behaviour = self.behave

    @property
    def token_file(self) -> Path:
        return self.directory / "reviewer-token"

    @property
    def settings(self) -> ApiServerSettings:
        url = self.server.url.removesuffix("/openid/v1/jwks")
        return ApiServerSettings(url=url, ca_file=self.server.root, token_file=self.token_file)

    def behave(self, handler: Handler) -> None:
        credential = handler.headers.get("Authorization", "")
        if any(part in handler.path for part in self.hanging):
            self.hung.append(handler.path)
            self.released.wait(60)
        if handler.command == "GET":
            handler.answer(self.maker.jwks() if credential else b"", 200 if credential else 401)
            return
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        token = body["spec"]["token"]
        if token.count(".") != 2:
            handler.answer(refused(), 201)
            return
        self.reviews.append(f"{credential} {token}")
        status, answer = (self.verdict or confirm)(token)
        handler.answer(answer, status)


def confirm(token: str) -> tuple[int, bytes]:
    return 201, confirmed(caller_of(token.encode(), ClusterPolicy("x", MAKER.issuer), time.time()))
