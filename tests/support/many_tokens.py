"""As many tokens of a real cluster as a storm wants."""

from __future__ import annotations

import itertools
import json
from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from support.reviewed_clusters import Workload
from support.tokens import b64url, compact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube.api_server import ApiServer


class Signer:
    """Makes them out of one, by the cluster's own key: TokenRequest would take longer."""

    def __init__(self, server: ApiServer) -> None:
        key = load_pem_private_key(server.private_key_file.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._key = key
        self._head, payload, _ = Workload.make(server).token().encode().split(b".")
        self._claims = json.loads(urlsafe_b64decode(payload + b"=="))

    def tokens(self) -> Iterator[bytes]:
        """One after the other, each with an ID of its own."""
        for number in itertools.count():
            claims = {**self._claims, "jti": f"storm-{number}", "exp": self._claims["iat"] + 3600}
            signed = self._head + b"." + b64url(compact(claims))
            yield signed + b"." + b64url(self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))
