"""Serve recommendations over HTTP: POST /recommend and /similar, with the ids of the log.

The lists are those of `cutrec recommend`. The page /docs describes requests and answers. The server answers to this
machine alone, unless --host says otherwise; then it needs a key, which CUTREC_API_KEY holds. SIGHUP reloads the model;
SIGTERM answers what has arrived and stops. Needs the extra cutrec[serve].

Examples:
    uv run cutrec serve
    uv run cutrec serve --model model --index model/index --port 8080
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from dataclasses import fields

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, whole_from
from cutrec.errors import StageError
from cutrec.paths import MODEL, model_folder
from cutrec.serving.limits import Limits

KEY = "CUTREC_API_KEY"
"""The environment variable with the key that requests must send."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = f"folder or file of a model (default: {MODEL.parent})"
    parser.add_argument("--model", type=local_file, default=MODEL.parent, help=text)
    text = "folder that `cutrec index` wrote (default: rank the whole catalogue)"
    parser.add_argument("--index", type=local_file, help=text)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    text = "port; 0 takes a free one (default: 8000)"
    parser.add_argument("--port", type=whole_from(0, 65535), default=8000, help=text)
    text = "allow a --host that other machines reach without a key"
    parser.add_argument("--without-key", action="store_true", help=text)
    text = "auto (the default) takes a GPU if there is one"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)
    for limit in fields(Limits):
        name, text = limit.name.replace("_", "-"), f"{limit.metadata['help']} (default: {limit.default})"
        parser.add_argument(f"--{name}", type=whole_from(1, 999_999_999), default=limit.default, help=text)


def run(options: Namespace) -> None:
    """Check the options, load the model and serve."""
    key = os.environ.get(KEY)
    if key is not None and not (key and key.isascii() and key.isprintable()):
        raise StageError(f"{KEY}: found a key that is empty or not of printable ASCII, allowed: such a key, or none")
    if key is None and not options.without_key and not _is_loopback(options.host):
        cure = f"127.0.0.1, or a key in {KEY}, or --without-key"
        raise StageError(f"--host: found {options.host}, which other machines reach, allowed: {cure}")
    model_folder(options.model)
    _refuse_taken(options.host, options.port)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server can reload
    try:
        from cutrec.serving.app import Server
        from cutrec.serving.run import serve
        from cutrec.serving.served_model import ServedModel
    except ImportError as error:
        raise StageError(f"serve: found no {error.name}, allowed: after pip install 'cutrec[serve]'") from None
    limits = Limits(**{limit.name: options[limit.name] for limit in fields(Limits)})
    server = Server(lambda: ServedModel(options.model, device=options.device, index=options.index), limits)
    serve(server, host=options.host, port=options.port, key=key)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_taken(host: str, port: int) -> None:
    """Say at once what would otherwise be found out after the model is loaded."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        allowed = "an address of this machine and a free port"
        found = f"{host} and {port}, where nothing can listen ({error.strerror})"
        raise StageError(f"--host, --port: found {found}, allowed: {allowed}") from None
