"""The options that `meshpki detect` has of its own, each with what its help says."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Namespace: TypeAlias = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAME", help="Where the throw-away ServiceAccount is made.")
]

# The pod that is run if it is asked for.
WithCanary: TypeAlias = Annotated[
    bool, typer.Option("--canary", help="Also run a pod with a projected token: what kubelets can do.")
]
CanaryImage: TypeAlias = Annotated[str, typer.Option(metavar="IMAGE", help="Image of that pod; anything that starts.")]
CanaryTimeout: TypeAlias = Annotated[
    int, typer.Option(metavar="SECONDS", min=1, max=180, help="How long to wait for that pod.")
]

# What is not asked of the cluster.
Platform: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Platform whose plugin adds what it knows; see `meshpki plugins`."),
]
Rbac: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Print the rights that detect needs, bound to this user or group:NAME, for `kubectl apply -f -`; "
        "ask nothing.",
    ),
]
Timeout: TypeAlias = Annotated[
    int, typer.Option(metavar="SECONDS", min=1, max=60, help="How long one request may take, retries included.")
]
