"""`pipeline explore` in a process of its own, as a user starts and ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from jsonschema import Draft202012Validator

from pipeline.schema_commands import schemas
from tests.testing.command import ENV


@contextmanager
def exploring(store: Path, *options: str) -> Iterator[str]:
    """Serve a store by a process of its own; give its address."""
    command = [sys.executable, "-m", "pipeline", "explore", str(store), "--port", "0", "--json"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=ENV) as one:
        assert one.stdout is not None
        told = json.loads(one.stdout.readline())
        Draft202012Validator(schemas()["explore"]).validate(told)
        listening = [c for c in psutil.Process(one.pid).net_connections() if c.status ==
                     psutil.CONN_LISTEN]  # fmt: skip
        assert [c.laddr for c in listening] == [("127.0.0.1", urlsplit(told["address"]).port)]
        yield told["address"]
        one.send_signal(signal.SIGINT)
        assert one.wait(timeout=60) in (0, 130)
