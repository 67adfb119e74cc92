"""The CA as a round hears it: whether it answers at all, and whether it wants to be asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.tokens.reasons import UnjudgedReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.hooks import CaEndpoint, Progress
    from meshpki.provision.ca_questions import Sign
    from meshpki.provision.proof.pace import Pace

ASK_AGAIN_SECONDS: Final = 2.0
"""Each asking of the CA for a token that it should refuse may bring a certificate, and a line in its audit log."""
KEY_SECONDS: Final = 45.0
"""A CA looks for a stranger's key every 10 s at most, and takes a token for young for 30 s after it was issued."""


class Listening:
    """Calls the CA by `sign`, and keeps whether somebody is there."""

    def __init__(self, sign: Sign, pace: Pace, say: Progress, deadline: float) -> None:
        """After `deadline`, of the pace's monotonic clock, nothing is asked again."""
        self._sign = sign
        self._pace = pace
        self._say = say
        self._deadline = deadline
        self.silent = False
        """The last call was answered by nobody, or by somebody who is no CA."""

    def once(self, endpoint: CaEndpoint, token: str, csr_pem: str, seconds: int) -> Sequence[str]:
        """See `ca_questions.Sign`. Raises as it does."""
        from meshpki.agent.renewal.ca_client import CaUnavailableError

        self.silent = False
        try:
            return self._sign(endpoint, token, csr_pem, seconds)
        except CaUnavailableError as error:
            self.silent = not error.reason
            raise

    def until_settled(self, endpoint: CaEndpoint, token: str, csr_pem: str, seconds: int) -> Sequence[str]:
        """The same for a token by a key that the CA may not have looked for yet: ask again until it has."""
        from meshpki.agent.renewal.ca_client import CaUnavailableError

        end = min(self._pace.monotonic() + KEY_SECONDS, self._deadline)
        while True:
            try:
                return self.once(endpoint, token, csr_pem, seconds)
            except CaUnavailableError as error:
                if error.reason != UnjudgedReason.KEY_NOT_SEEN_YET or self._pace.monotonic() >= end:
                    raise
            self._say("the CA has not looked for the token's key yet; it is asked again")
            self._pace.sleep(ASK_AGAIN_SECONDS)
