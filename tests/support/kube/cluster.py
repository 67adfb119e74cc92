"""What the API servers of one cluster share: etcd, the authority, the account key, the users by static token."""

from __future__ import annotations

import itertools
import secrets
from typing import TYPE_CHECKING

from support.kube.account_key import AccountKey
from support.kube.authority import ClusterAuthority
from support.kube.etcd import Etcd

if TYPE_CHECKING:
    from pathlib import Path

ADMIN = ("admin", "system:masters")
STRANGER = ("stranger", "strangers")
"""A user who is known and may do nothing beyond what everybody may."""


class Cluster:
    """A directory of its own with everything in it, and a running etcd."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.authority = ClusterAuthority(directory / "pki")
        self.account_key = AccountKey(directory / "pki")
        self.admin_token, self.stranger_token = secrets.token_hex(20), secrets.token_hex(20)
        self.tokens_file = directory / "tokens.csv"
        self.tokens_file.touch(mode=0o600)
        users = ((self.admin_token, *ADMIN), (self.stranger_token, *STRANGER))
        self.tokens_file.write_text("".join(f'{token},{user},{user},"{group}"\n' for token, user, group in users))
        self.etcd = Etcd(directory / "etcd")
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        """Another one each time, for names."""
        return next(self._numbers)

    def server_directory(self) -> Path:
        """A new one for the next server."""
        made = self.directory / f"server-{self.next_number()}"
        made.mkdir()
        return made
