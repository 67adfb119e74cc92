"""The options of `meshpki agent run`, each with what its help says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from meshpki_cli.durations import parse_duration

KeyTypeName: TypeAlias = Literal["ec-p256", "rsa-2048"]

# The CA, and what it is asked for.
CaAddress: TypeAlias = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the CA listens.")]
CaRoots: TypeAlias = Annotated[Path, typer.Option(metavar="FILE", help="PEM certificates that the CA must chain to.")]
CaServerName: TypeAlias = Annotated[str, typer.Option(metavar="NAME", help="DNS name in the CA's certificate.")]
CaTimeout: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=0.1, max=300, help="How long one call to the CA may take, connecting included."
    ),
]
TokenFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Pod mode: the workload's token; read anew for every call to the CA."),
]
CaRenewalAddress: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT", help="Pod mode: where the CA renews by the certificate held, while there is no token."
    ),
]
Cluster: TypeAlias = Annotated[str, typer.Option(metavar="NAME", help="Cluster to name to the CA.")]
Ttl: TypeAlias = Annotated[
    int, typer.Option(metavar="DURATION", parser=parse_duration, help="Life to ask for, such as 12h.")
]
KeyTypeOption: TypeAlias = Annotated[KeyTypeName, typer.Option(help="Key to make for each renewal.")]

# Where it is served.
SdsSocket: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="SOCKET", help="Unix socket for Envoy's SDS and the SPIFFE Workload API.")
]
SharedSocketDirectory: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--shared-socket-directory",
        help="Pod mode: accept a socket directory that this pod's other containers can write in, as an emptyDir.",
    ),
]
SecretFiles: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIRECTORY", help="Pod mode: let Envoy name PEM files below here as secrets; repeatable."),
]
Files: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="DIRECTORY", help="Pod mode: keep key, chain and roots here as one atomic set.")
]
FilesMode: TypeAlias = Annotated[
    str, typer.Option(metavar="MODE", help="With --files: mode of those with the key: 0600, 0400, 0640 or 0440.")
]
FilesOwner: TypeAlias = Annotated[
    str, typer.Option(metavar="USER:GROUP", help="With --files: who gets them; else the agent.")
]
FilesCommand: TypeAlias = Annotated[
    str, typer.Option(metavar="COMMAND", help="With --files: program (absolute path) to run after a change; no shell.")
]
FilesSignal: TypeAlias = Annotated[
    str, typer.Option(metavar="SIGNAL:PIDFILE", help="With --files: signal (HUP, USR1, USR2) to send after a change.")
]

# What the agent keeps and says of itself.
StatusFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write state, expiry and the last failure here, as JSON.")
]
Cache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        help="Keep key, chain and roots here (0700), to go on after a restart; in node mode for each token.",
    ),
]
Http: TypeAlias = Annotated[str, typer.Option(metavar="HOST:PORT", help="Show /livez, /readyz and /metrics here.")]

# Node mode.
Node: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--node", help="Node mode: serve every workload of this node; each call brings its own token in a header."
    ),
]
TokenHeader: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="Node mode: the header of the token; else `authorization`.")
]
MaxIdentities: TypeAlias = Annotated[
    int, typer.Option(min=1, metavar="NUMBER", help="Node mode: accepted tokens at a time.")
]
MaxInFlight: TypeAlias = Annotated[
    int, typer.Option(min=1, metavar="NUMBER", help="Node mode: calls to the CA at a time.")
]
