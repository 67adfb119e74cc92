"""Why a way to get a program did not work: one sentence, after which the next way is tried."""


class AssetError(Exception):
    """This way did not work; the text says why."""
