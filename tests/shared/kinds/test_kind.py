"""What a kind of one's own gets without writing it."""

from __future__ import annotations

from shared.kinds.kind import Kind, Result


class Mood(Result):
    kind: str = "mood"
    word: str


class MoodKind(Kind[Mood]):
    name, result = "mood", Mood


def test_a_kind_without_cells_is_shown_as_its_json() -> None:
    kind = MoodKind()
    assert kind.cells(Mood(word="calm")) == ()
    assert kind.lines(Mood(word="calm")) == ['{"kind":"mood","word":"calm"}']
