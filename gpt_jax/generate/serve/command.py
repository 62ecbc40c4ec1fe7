"""`gpt-jax serve`: a model as a server on this machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import InputError, require
from gpt_jax.generate.serve.api import Limits, Served
from gpt_jax.generate.serve.engine import Engine
from gpt_jax.train.run import load

GRACE_SECONDS = 5
"""Given to the texts that are being written when the server is told to stop."""


def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    _check(options)
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"serving needs {error.name}, which is not installed: pip install 'gpt_jax[serve]', or "
            "pip install -e '.[serve]' in a clone."
        ) from None
    # Before the model is read, which takes longer than to say that this cannot be had. Whoever
    # connects from now on waits.
    with _listening(options.host, options.port) as listener:
        config, params, tokenizer = load(options.run_folder, options.step)
        context = config.model.context_length
        limits = Limits(
            body=options.max_body,
            prompt=options.max_prompt or context,
            tokens=options.max_tokens or context,
            seconds=options.timeout,
            texts=options.slots + options.queue,
        )
        name = Path(options.run_folder).resolve().name
        served = Served(name, config.model, tokenizer, limits)
        engine = Engine(
            config.model, params, tokenizer.vocab_size, slots=options.slots, queue=options.queue
        )
        engine.start()
        try:
            asyncio.run(_serve(engine, served, listener, options.host))
        finally:
            engine.close()
            engine.join(GRACE_SECONDS)


def _check(options: argparse.Namespace) -> None:
    for name in ("slots", "max_body", "max_prompt", "max_tokens"):
        value, option = getattr(options, name), "--" + name.replace("_", "-")
        require(value is None or value > 0, f"{option} must be positive, and it is {value}.")
    require(options.queue >= 0, f"--queue must not be negative, and it is {options.queue}.")
    require(0 <= options.port < 2**16, f"--port is from 0 to 65535, and it is {options.port}.")
    require(
        0 < options.timeout < math.inf,
        f"--timeout is a positive number of seconds, and it is {options.timeout:g}.",
    )


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; raises InputError where that address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
            yield listener
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"the server must be able to listen on {host} port {port}, and cannot ({reason}): give "
            "another --host or --port (0: any that is free)."
        ) from error


async def _serve(engine: Engine, served: Served, listener: socket.socket, host: str) -> None:
    import uvicorn

    from gpt_jax.generate.serve.app import is_local, make_app

    class Server(uvicorn.Server):
        """It leaves signals to us: uvicorn raises them again once it has ended."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(
        uvicorn.Config(
            make_app(engine, served, host),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS + 3,
        )
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:  # told twice
            server.force_exit = True
            engine.close()
        server.should_exit = True
        engine.drain()
        loop.call_later(GRACE_SECONDS, engine.close)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    if not is_local(host):
        print(
            f"warning: --host {host} lets other machines in, and there is no password: whoever "
            "reaches this port can use the model.",
            file=sys.stderr,
        )
    print(f"serving {served.name}\nchat    {url}/\nOpenAI  {url}/v1", flush=True)
    await server.serve(sockets=[listener])
