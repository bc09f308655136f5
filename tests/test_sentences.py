import pytest

from clipkit.sentences import sentences, too_long


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A cat.", ["A cat."]),
        ("no stop at all", ["no stop at all"]),
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 3.50 at site.org now. Cheap.", ["It costs 3.50 at site.org now.", "Cheap."]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("first line\nsecond line\n\nthird", ["first line", "second line", "third"]),
        ("\u4e00\u3002\u4e8c\u3002", ["\u4e00\u3002", "\u4e8c\u3002"]),
        ("...", ["..."]),
        ("", [""]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_words_are_neither_lost_nor_made() -> None:
    text = "One (1.5) of them. Two? Yes! Dr. Who came... and went.\nEnd"
    assert " ".join(sentences(text)).split() == text.split()


def test_what_is_too_long_and_by_how_much() -> None:
    asked: list[str] = []

    def count(texts: list[str]) -> list[int]:
        asked.extend(texts)
        return [len(text.split()) + 2 for text in texts]

    texts = ["a b c", "a b c d e f g h", "a b c d e f g"]
    assert too_long(texts, count, 9) == [0, 1, 0]  # type: ignore[arg-type]
    assert asked == texts[1:]  # five letters cannot be more than nine tokens
