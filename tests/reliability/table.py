"""Prints the figures that the reliability tests wrote as a table: python tests/reliability/table.py build/reliability.jsonl"""

import json
import sys


def main(path):
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    print("| fault | backend | cases | result |\n|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["fault"], row["backend"])):
        print(f"| {row['fault']} | {row['backend']} | {row['cases']} | {row['result']} |")


if __name__ == "__main__":
    main(sys.argv[1])
