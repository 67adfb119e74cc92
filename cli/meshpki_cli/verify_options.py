"""The options that `meshpki verify` has of its own, each with what its help says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

# The CA, as it is reached from here.
CaAddress: TypeAlias = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Of a cluster: where its CA listens, reached from here.")
]
CaRoots: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Of a cluster: PEM certificates that its CA must chain to.")
]
CaServerName: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="DNS name in the CA's certificate; by default the host of --ca-address."),
]
TrustDomain: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of a cluster: what its SPIFFE IDs must begin with.")
]

# What is asked for, and what has to be refused.
Namespace: TypeAlias = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAME", help="Where the probe account is made.")
]
OtherContext: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Context of another cluster, whose token must be refused.")
]
OtherTrusted: TypeAlias = Annotated[
    bool, typer.Option("--other-trusted", help="The CA trusts that cluster, too: its token must be taken.")
]
RequireRevocation: TypeAlias = Annotated[
    bool, typer.Option("--require-revocation", help="Fail if a token whose pod is gone is still taken.")
]
RevocationWithin: TypeAlias = Annotated[
    int, typer.Option(metavar="SECONDS", min=1, max=240, help="By when a CA must know that a pod is gone.")
]
LegacyWithin: TypeAlias = Annotated[
    int, typer.Option(metavar="SECONDS", min=0, max=60, help="How long to wait for a legacy token in a Secret.")
]
Timeout: TypeAlias = Annotated[
    int, typer.Option(metavar="SECONDS", min=1, max=60, help="How long one request to an API server may take.")
]
