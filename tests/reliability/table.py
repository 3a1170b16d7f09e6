"""Prints the figures that the reliability tests wrote as a table: python tests/reliability/table.py build/reliability.jsonl"""

import json
import sys

BACKENDS = {"tensorflow", "jax", "torch"}


def table(rows):
    """The lines of a Markdown table: one for each fault, the cases of its tests added up; backends that agree share a line."""
    found = {}  # fault -> backend -> [cases, results in the order seen]
    for row in rows:
        entry = found.setdefault(row["fault"], {}).setdefault(row["backend"], [0, []])
        entry[0] += row["cases"]
        if row["result"] not in entry[1]:
            entry[1].append(row["result"])
    yield "| fault | backend | cases | result |"
    yield "|---|---|---|---|"
    for fault, backends in sorted(found.items()):
        entries = list(backends.values())
        if backends.keys() == BACKENDS and all(entry == entries[0] for entry in entries):
            backends = {"each": entries[0]}
        for backend, (cases, results) in sorted(backends.items()):
            yield f"| {fault} | {backend} | {cases:,} | {'; '.join(results)} |"


def main(path):
    with open(path, encoding="utf-8") as file:
        print("\n".join(table(map(json.loads, file))))


if __name__ == "__main__":
    main(sys.argv[1])
