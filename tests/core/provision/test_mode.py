"""The choice of a rung: a table of what the evidence allows, what is installed, what the operator says."""

from __future__ import annotations

import pytest

from meshpki.errors import ExitCode, OperatorNeededError
from meshpki.hooks import Detection, Evidence, Mode
from meshpki.provision.mode import ChosenBy, ModeChoice, choose, lower

POD, SDS, FILE = Mode
EVIDENCE, OPERATOR = ChosenBy


def detection(*modes: Mode) -> Detection:
    return Detection("v1", "test", modes, (Evidence("foreign audience?", "no", "TokenRequest"),))


@pytest.mark.parametrize(
    ("possible", "word", "installed", "chosen"),
    [
        # nothing installed, no word: the best
        ((POD, SDS, FILE), None, None, (POD, EVIDENCE)),
        ((SDS, FILE), None, None, (SDS, EVIDENCE)),
        # ... but file-mounted keys take a word, also where nothing else is left
        ((FILE,), None, None, "all that the evidence allows"),
        ((FILE,), FILE, None, (FILE, OPERATOR)),
        ((FILE,), None, (FILE, EVIDENCE), "all that the evidence allows"),
        # a word down
        ((SDS, FILE), FILE, None, (FILE, OPERATOR)),
        ((POD, SDS, FILE), SDS, None, (SDS, OPERATOR)),
        # a word that says what the evidence says
        ((SDS, FILE), SDS, None, (SDS, EVIDENCE)),
        # installed by evidence: stays, goes up, never down by itself
        ((SDS, FILE), None, (SDS, EVIDENCE), (SDS, EVIDENCE)),
        ((POD, SDS, FILE), None, (SDS, EVIDENCE), (POD, EVIDENCE)),
        ((FILE,), None, (SDS, EVIDENCE), "sds is installed"),
        ((SDS, FILE), None, (POD, EVIDENCE), "pod-certificate is installed"),
        # ... but by word, also when it is the best that is left
        ((FILE,), FILE, (SDS, EVIDENCE), (FILE, OPERATOR)),
        ((SDS, FILE), FILE, (SDS, EVIDENCE), (FILE, OPERATOR)),
        # a word holds until another one
        ((SDS, FILE), None, (FILE, OPERATOR), (FILE, OPERATOR)),
        ((FILE,), None, (FILE, OPERATOR), (FILE, OPERATOR)),
        ((POD, SDS, FILE), None, (SDS, OPERATOR), (SDS, OPERATOR)),
        ((SDS, FILE), SDS, (FILE, OPERATOR), (SDS, EVIDENCE)),
        # what was asked for is not possible (any more)
        ((FILE,), SDS, None, "sds was asked for"),
        ((FILE,), None, (SDS, OPERATOR), "sds was asked for"),
        ((), None, None, "no mode is possible"),
        ((), FILE, (SDS, EVIDENCE), "no mode is possible"),
    ],
)
def test_choice(
    possible: tuple[Mode, ...],
    word: Mode | None,
    installed: tuple[Mode, ChosenBy] | None,
    chosen: tuple[Mode, ChosenBy] | str,
) -> None:
    before = ModeChoice(*installed, "earlier") if installed else None
    if isinstance(chosen, str):
        with pytest.raises(OperatorNeededError, match=chosen) as caught:
            choose(detection(*possible), word=word, installed=before)
        assert caught.value.evidence == ("foreign audience? no (TokenRequest)",)
        assert caught.value.todo
        assert caught.value.exit_code is ExitCode.OPERATOR_NEEDED
    else:
        choice = choose(detection(*possible), word=word, installed=before)
        assert (choice.mode, choice.by) == chosen
        assert choice.reason


@pytest.mark.parametrize("word", [None, FILE])
def test_a_second_run_chooses_with_the_same_words(word: Mode | None) -> None:
    first = choose(detection(SDS, FILE), word=word)
    assert choose(detection(SDS, FILE), installed=first) == first


def test_lower_follows_the_ladder() -> None:
    assert lower(FILE, SDS)
    assert lower(SDS, POD)
    assert not lower(SDS, SDS)
    assert not lower(POD, FILE)
