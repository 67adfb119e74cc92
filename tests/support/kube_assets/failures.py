"""Why a way to get a program did not work: one sentence, after which the next way is tried."""


class AssetError(Exception):
    """This way did not work; the text says why."""


class UnreachableError(AssetError):
    """The host does not answer at all: nothing else needs to be asked of it in this run."""
