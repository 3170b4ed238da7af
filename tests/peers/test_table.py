"""The table of docs/peers.md: every number of a peer is ours, or the note beside it says why not."""

from __future__ import annotations

import pytest
from helpers.peers import need

need("diffusers", "pythae", "pyro")

import peer_table
from documents import fill
from peer_cases import peer_cases


def test_values_agree_or_have_a_note():
    cases = list(peer_cases())
    for case in cases:
        theirs, ours = (float(value().detach()) for value in case.values)
        assert (ours == pytest.approx(theirs, rel=1e-6)) != bool(case.note), (case.peer, case.quantity)
    assert sum(bool(case.note) for case in cases) == 2


def test_document_is_filled():
    case = next(iter(peer_cases()))
    line = peer_table._line(case, 0.0)
    assert line[:2] == (case.peer, case.version)
    assert line[3] == line[4]
    assert "diffusers" in fill("<!-- begin: peers -->\n<!-- end: peers -->", {"peers": lambda: " ".join(line)})
