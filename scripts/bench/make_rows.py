"""Writes chats in JSON lines, the same for the same sources of this repository and numbers.

Usage: make_rows.py ROWS SEED FILE

A question of 8 to 60 words and an answer of mostly 30 to 300, as they follow one another in the repository's text and
code, so that tokens have the lengths that they have in English and in programs. One word in 20 is spelt anew.
"""
import json
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).parents[2]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_"


def words():
    files = sorted([*ROOT.glob("*.md"), *ROOT.glob("crates/**/*.md"), *ROOT.glob("crates/**/*.rs")])
    return " ".join(path.read_text() for path in files).split(" ")


def main():
    rows, seed, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    draw, corpus = random.Random(seed), words()

    def text(count):
        start = draw.randrange(len(corpus) - count)
        said = corpus[start : start + count]
        for _ in range(count // 20):
            said[draw.randrange(count)] = "".join(draw.choices(LETTERS, k=draw.randint(3, 10)))
        return " ".join(said).strip() or "?"

    with open(path, "w") as out:
        for _ in range(rows):
            question = text(draw.randint(8, 60))
            answer = text(min(600, 20 + int(draw.lognormvariate(4.4, 0.8))))
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            out.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
