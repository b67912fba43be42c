"""Real English text that every Python has: the language reference in `pydoc_data.topics`, cut into sentences.

Of Python 3.11's manual `real_sentences()` makes about 2,600 distinct ones; beyond that they come again with a small
prefix, so that no two texts are equal.
"""

import functools
import itertools
import random
import re
from pydoc_data.topics import topics

SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=[A-Z(\"'*])")
FEWEST_WORDS, MOST_WORDS = 4, 80
CHARACTERS_A_TOKEN = 3.98
"""Of the manual; two tokens of a text are special ones."""
RULER = re.compile(r"[=~*^#|+-]{4,}")


@functools.cache
def real_sentences() -> tuple[str, ...]:
    """Distinct sentences of prose, in the manual's order. Code and grammar are left out."""
    found: dict[str, None] = {}
    for _, text in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", text):
            lines = paragraph.splitlines()
            if "::=" in paragraph or ">>>" in paragraph or all(line.startswith("      ") for line in lines):
                continue
            for sentence in SENTENCE_END.split(" ".join(" ".join(lines).split())):
                words = sentence.strip("*=-~ ").split()
                if FEWEST_WORDS <= len(words) <= MOST_WORDS and not RULER.search(sentence):
                    found.setdefault(" ".join(words))
    return tuple(found)


def sentences(n: int) -> list[str]:
    """`n` distinct sentences, about 25 tokens each; the same ones every time."""
    real = real_sentences()
    prefixes = itertools.chain([""], (f"Once more ({i}): " for i in itertools.count(2)))
    return list(itertools.islice((prefix + sentence for prefix in prefixes for sentence in real), n))


def mixed_lengths(n: int) -> list[str]:
    """`n` runs of the manual's words, of 3 to about 400 tokens; each doubling of the length is equally common."""
    draw = random.Random(0)
    return [_run_of_words(round(8 * 160 ** draw.random()), draw) for _ in range(n)]  # some four characters a token


def runs_of_words(n: int, tokens: int) -> list[str]:
    """`n` runs of the manual's words, of about so many tokens."""
    draw = random.Random(0)
    return [_run_of_words(round(CHARACTERS_A_TOKEN * (tokens - 2)), draw) for _ in range(n)]


def _run_of_words(length: int, draw: random.Random) -> str:
    text = _all_text()
    start = text.index(" ", draw.randrange(len(text) - 2 * length - 100)) + 1
    return text[start : text.index(" ", start + length)]


@functools.cache
def _all_text() -> str:
    return " ".join(real_sentences())
