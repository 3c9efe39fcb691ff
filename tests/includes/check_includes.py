#!/usr/bin/env python3
"""Checks every #include between rooms against edges.txt, and that the allowed edges form no cycle.

Usage: check_includes.py [--root DIR]. Prints every violation; exit 1 if there is one.
"""
import argparse
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def read_edges(path):
    edges = {}
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            room, _, allowed = line.partition(":")
            edges[room.strip()] = set(allowed.split())
    return edges


def find_cycle(edges):
    order = {}

    def visit(room, trail):
        if room in trail:
            return trail[trail.index(room):] + [room]
        if room in order:
            return None
        for lower in sorted(edges.get(room, ())):
            cycle = visit(lower, trail + [room])
            if cycle:
                return cycle
        order[room] = True
        return None

    for room in edges:
        cycle = visit(room, [])
        if cycle:
            return cycle
    return None


def violations(root, edges):
    sources = [p for p in sorted((root / "src").rglob("*")) if p.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    for path in sources:
        room = path.relative_to(root / "src").parts[0]
        if room not in edges:
            yield f"{path.relative_to(root)}: room '{room}' is not in edges.txt"
            continue
        for target in INCLUDE.findall(path.read_text(errors="replace")):
            lower = target.split("/")[0]
            if not (root / "src" / target).is_file():
                yield f'{path.relative_to(root)}: "{target}" is no file under src/ (include from the root, with its room)'
            elif lower != room and lower not in edges[room]:
                yield f'{path.relative_to(root)}: room {room} may not include "{target}" (allowed: {sorted(edges[room])})'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    root = parser.parse_args().root
    edges = read_edges(root / "tests/includes/edges.txt")
    problems = list(violations(root, edges))
    cycle = find_cycle(edges)
    if cycle:
        problems.append("edges.txt allows a cycle: " + " -> ".join(cycle))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} include violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
