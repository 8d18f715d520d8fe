"""The command line: parses, takes the lock where two callers would disturb each other, and calls the right module."""

from __future__ import annotations

import argparse

from . import build
from .settings import Paths
from .shell import DevclusterError, say


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="devcluster")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build")
    building.add_argument("parts", nargs="+", metavar="PART")
    arguments = parser.parse_args(argv)
    try:
        for path in build.build(Paths.from_environment(), arguments.parts):
            print(path)
    except DevclusterError as error:
        say(f"devcluster: {error}")
        return 1
    return 0
