"""Restores pictures in the browser: a web page, and an HTTP API.

python -m artifact_remover.serve [OPTIONS]

Listens on this machine only, unless --host says otherwise; keeps and logs nothing of a picture.
"""

import contextlib
import socket
import sys

from artifact_remover.options import ServeConfig
from data_prep.command_line import parse_options, run_command, say
from data_prep.errors import InputError
from data_prep.quiet import quiet_tensorflow


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Instead of the process's own.

    Returns:
        Exit code: 0 when the user stopped it, 2 for a mistake of the user's.
    """
    config = parse_options(ServeConfig, arguments, prog="python -m artifact_remover.serve", description=__doc__)
    return run_command(lambda: _serve_until_stopped(config))


def _serve_until_stopped(config):
    with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
        serve(config)
    say("stopped")


def serve(config: ServeConfig) -> None:
    """Serves until it is stopped.

    Raises:
        InputError: For a mistake of the user's.
        KeyboardInterrupt: When it is stopped.
    """
    try:
        import fastapi_offline  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed: pip install 'artifact-remover[web]', in a checkout pip install -e '.[web]'"
        ) from error
    # Imported here, not at the top, so that `--help` answers at once.
    from artifact_remover.model_folder import FAITHFUL, PERCEPTUAL, PUBLISHED, choose_exports, find_exports

    choose_exports(config.model, None)  # a wrong folder is told before anything heavy is loaded
    blends = {FAITHFUL, PERCEPTUAL} <= find_exports(config.model or PUBLISHED).keys()
    with _listen(config) as listening:
        with quiet_tensorflow():
            from artifact_remover.restoration import Restorer
            from artifact_remover.web.app import Server, create_app

            restorer = Restorer.load(
                config.model,
                blend=0.0 if blends else None,
                engine=config.engine,
                precision=config.precision,
                tile=config.tile,
                self_ensemble=config.self_ensemble,
            )
        app = create_app(restorer, config)
        say(f"model: {restorer.description}")
        say(f"ready: {_name(listening)}  (Ctrl-C stops it)")
        Server(app).run(sockets=[listening])


def _listen(config):
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=512)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot listen on {config.host} port {config.port}, choose another --port or --host: {reason}"
        ) from error


def _name(listening):
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


if __name__ == "__main__":
    sys.exit(main())
