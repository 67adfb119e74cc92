"""How each workload stands: by its agent's status file, or, where one agent serves all, by asking for its identity."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from meshpki.hooks import Health
from meshpki_local import agent_status
from meshpki_local.agent_status import AgentStatus
from meshpki_local.settings import Agents

if TYPE_CHECKING:
    from meshpki.identity import ServiceAccountRef
    from meshpki_local.layout import Layout
    from meshpki_local.settings import Settings

SECONDS: Final = 3.0
_LIMIT: Final = 64 << 10


def read(layout: Layout, settings: Settings, account: ServiceAccountRef) -> AgentStatus | None:
    """How the workload stands; None when nobody says.

    A node's agent knows of no workload until its Envoy comes, so it is asked as an Envoy asks: with the workload's
    own token. It answers from what it holds for that token; at the first time it asks the CA.
    """
    if settings.agent is not Agents.NODE:
        return agent_status.read(layout.workload(account).status)
    if not layout.node_socket.is_socket():
        return None
    from meshpki.agent.node.client import NodeAnswer, ask  # grpc: not for those who only read files
    from meshpki.errors import MeshpkiError, RefusedError
    from meshpki.runtime.files import read_private

    try:
        answer: NodeAnswer = ask(
            layout.node_socket, read_private(layout.workload(account).token, limit=_LIMIT), SECONDS
        )
    except RefusedError as error:
        return AgentStatus(Health.DENIED, "", 0, error.seen, time.time())
    except MeshpkiError:
        return None
    return AgentStatus(Health.FRESH, answer.spiffe_id, answer.not_after, "", time.time())
