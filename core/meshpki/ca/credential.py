"""Which kinds of credential a caller may show."""

from __future__ import annotations

from enum import StrEnum


class CredentialKind(StrEnum):
    """By what a caller proved who it is; the value is the label in metrics."""

    TOKEN = "token"
    CERTIFICATE = "certificate"
    """Its own, still valid one: the renewal listener takes nothing else."""
