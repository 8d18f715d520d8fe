"""Makes the demo's rows: messages of the packaged chatterbot corpus with their topic, as {"text", "topic"} lines.

    python hack/demo/make_rows.py --out FILE.jsonl [--cache FOLDER]

Nine topics that tell apart what a message is about, at most 90 messages each, chosen and ordered by hash: the same file
every time. A message that stands under two topics is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.demo.packages import unpacked

CORPUS: Final = Path("chatterbot_corpus/data/english")
TOPICS: Final = ("ai", "coding", "emotion", "literature", "movies", "psychology", "science", "sports", "trivia")
"""Files of the corpus with at least 20 messages, small talk left out."""

MOST_PER_TOPIC: Final = 90


def messages(path: Path) -> list[str]:
    """Return the distinct opening messages of a file; the answers that follow them are often off topic."""
    conversations = yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
    texts = {" ".join(str(turns[0]).split()) for turns in conversations if turns}
    return sorted(text for text in texts if len(text) >= 3)


def order(text: str) -> str:
    """Key that shuffles the same way everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def rows(corpus: Path) -> list[dict[str, str]]:
    """Return all rows in their final order."""
    by_topic = {topic: messages(corpus / f"{topic}.yml") for topic in TOPICS}
    seen = Counter(text.casefold() for texts in by_topic.values() for text in texts)
    chosen = [
        {"text": text, "topic": topic}
        for topic, texts in by_topic.items()
        for text in sorted((text for text in texts if seen[text.casefold()] == 1), key=order)[:MOST_PER_TOPIC]
    ]
    return sorted(chosen, key=lambda row: order(row["text"]))


def main() -> None:
    """Write the file; the same content every time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--cache", type=Path, help="where packages are kept (default: beside --out)")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    made = rows(unpacked(arguments.cache or out.parent) / CORPUS)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    counts = Counter(row["topic"] for row in made)
    print(f"{out}: {len(made)} rows ({', '.join(f'{topic} {count}' for topic, count in counts.most_common())})")


if __name__ == "__main__":
    main()
