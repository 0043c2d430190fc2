"""`artifact-remover SUBCOMMAND`: the project's commands under one name."""

import sys

from artifact_remover import evaluate, export, fit, restore, serve
from data_prep.command_line import print_version, say

COMMANDS = {
    "fit": fit.main,
    "restore": restore.main,
    "evaluate": evaluate.main,
    "serve": serve.main,
    "export": export.main,
}


def main() -> int:
    """Hands the command line to the subcommand that is its first word."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        return COMMANDS[name](arguments)
    if name == "--version":
        print_version()
        return 0
    asked_for_help = name in ("-h", "--help")
    usage = f"usage: artifact-remover {{{','.join(COMMANDS)}}} [OPTIONS]; each has its own --help"
    say(usage, "stdout" if asked_for_help else "stderr")
    return 0 if asked_for_help else 2


if __name__ == "__main__":
    sys.exit(main())
