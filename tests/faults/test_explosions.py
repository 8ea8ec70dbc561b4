"""An Explosion at every stage of a transfer: the same exception arrives, and nothing is left
behind.

The stages are the calls that one transfer makes, in their order; each raises in turn, before and
after it did its work. The exceptions are an Exception, a BaseException of ours, `gevent.Timeout`,
and a kill."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import gevent
import greenlet
import pytest

from relay.engine.transfer import finalize
from relay.engine.transfer import verify as verify_module
from relay.engine.transfer.context import TransferContext
from relay.engine.transfer.source_reader import SourceReader
from relay.errors import Cancelled, RelayError
from relay.stores.http import HttpStore
from relay.stores.http_client import HttpClient
from relay.wire import dial, exchange, pump
from relay.wire.body import Body
from relay.wire.buffers import PIPES
from relay.wire.stream import Stream
from relay.wire.tls.stream import TlsStream
from tests.conftest import Certificates, Engine
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.scripted import Peer


class Explosion(Exception):
    """Marker for fault injection."""


class Burst(BaseException):
    """Marker that `except Exception` does not catch."""


STAGES: dict[str, tuple[Any, str]] = {
    "resolve": (dial.Dialer, "_addresses"),
    "connect": (dial.Dialer, "_connect"),
    "handshake": (TlsStream, "handshake"),
    "pool take": (dial.Pool, "take"),
    "write head": (exchange._Exchange, "_write_head"),
    "read head": (exchange._Exchange, "_final"),
    "respond": (exchange._Exchange, "_response"),
    "head": (HttpStore, "head"),
    "get": (HttpStore, "get"),
    "put": (HttpStore, "put"),
    "read": (Stream, "read_now"),
    "write": (Stream, "_push"),
    "wait": (Body, "wait"),
    "body end": (Body, "_note_end"),
    "outlet write": (pump.BodyWriter, "write"),
    "outlet finish": (pump.BodyWriter, "finish"),
    "into pipe": (pump, "_into_pipe"),
    "out of pipe": (pump, "_out_of_pipe"),
    "consume answer": (HttpClient, "drain"),
    "open": (SourceReader, "open_body"),
    "prove": (verify_module.Verification, "prove"),
    "look": (verify_module, "_find"),
    "read back": (verify_module.Verification, "_read_back_at_once"),
    "receipt": (finalize, "Receipt"),
    "outcome": (TransferContext, "outcome"),
}


WAYS: tuple[tuple[type[BaseException], int, bool], ...] = (
    (Explosion, 1, False),
    (Explosion, 1, True),
    (Explosion, 2, False),
    (Explosion, 3, True),
    (Burst, 1, False),
    (Burst, 2, True),
    (gevent.Timeout, 1, False),
    (gevent.Timeout, 2, False),
)
"""The exception, the call of the stage that raises it, and whether before or after the call did its
work."""

GIVES = frozenset({"connect", "pool take", "respond", "get", "open"})
"""Stages that return something to close: only their caller can close it, so they explode before,
not after."""


def with_explosion(
    original: Callable[..., Any], error: BaseException, nth: int, after: bool
) -> Callable[..., Any]:
    """Wrap a call so that its `nth` one raises `error`, before or after it did its work."""
    calls = 0

    def explode_at(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != nth:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise error

    return explode_at


def greenlets() -> int:
    """Count the living greenlets."""
    gc.collect()
    return sum(isinstance(o, greenlet.greenlet) and not o.dead for o in gc.get_objects())


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> None:
    """Freeze the imported objects, so that the collector skips them: each test searches all
    others."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_explosion_leaves_nothing_behind(
    engine: Engine,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    verify: str,
    tls: bool,
) -> None:
    context = certificates.server if tls else None
    owner, name = STAGES[stage]
    owner = TlsStream if stage == "read" and tls else owner
    original = getattr(owner, name)
    exploded = 0
    with (
        Peer(source_script(Cloud(), fixed_answer(GET_HEAD, DATA)), context) as here,
        Peer(destination_script(Cloud()), context) as there,
    ):
        engine.migrate(here.url("/a"), there.url("/b"), verify=verify)
        engine.runner.wire.pool.close()
        PIPES.close()
        before, alive = pipes(), greenlets()
        for kind, nth, after in WAYS:
            error = kind()
            monkeypatch.setattr(
                owner, name, with_explosion(original, error, nth, after and stage not in GIVES)
            )
            try:
                engine.migrate(here.url("/a"), there.url("/b"), verify=verify)
            except BaseException as caught:  # noqa: BLE001 - it must be ours, whatever it is
                assert caught is error, (kind, nth, after)
                exploded += 1
            monkeypatch.undo()
            engine.assert_nothing_left()
            PIPES.close()
            assert pipes() == before, (kind, nth, after)
        assert greenlets() <= alive
    assert exploded or not can_apply(stage, verify, tls)


def can_apply(stage: str, verify: str, tls: bool) -> bool:
    """Return whether such a transfer must pass this stage (it may pass others, depending on its
    reads)."""
    spliced = verify == "size" and not tls
    table = {
        "handshake": tls,
        "into pipe": spliced,
        "out of pipe": spliced,
        "outlet write": not spliced,
        "look": verify == "size",  # this destination's HEAD is known to show no digest
        "read back": verify != "size",
        "wait": False,
    }
    return table.get(stage, True)


def pipes() -> int:
    """Count this process's pipes. (Sockets look like those of the Peers; the pool counts
    connections.)"""
    links = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue
    return sum(link.startswith("pipe:") for link in links)


@pytest.mark.parametrize("verify", ["auto", "size"])
def test_a_kill_in_the_middle_leaves_nothing_behind(engine: Engine, verify: str) -> None:
    def half(talk: Any, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[: len(DATA) // 2])
        talk.linger()

    cloud = Cloud()
    with Peer(source_script(Cloud(), half)) as here, Peer(destination_script(cloud)) as there:
        running = gevent.spawn(engine.migrate, here.url("/a"), there.url("/b"), verify=verify)
        while engine.last is None or engine.last.bytes == 0:
            gevent.sleep(0.001)
        running.kill()
        engine.assert_nothing_left()
        assert isinstance(running.value, gevent.GreenletExit)
    assert cloud.objects == {}


def test_a_cancel_is_seen_within_about_a_second(engine: Engine) -> None:
    def half(talk: Any, _: bytes) -> None:
        talk.send(GET_HEAD, DATA[: len(DATA) // 2])
        talk.linger()

    with Peer(source_script(Cloud(), half)) as here, Peer(destination_script(Cloud())) as there:
        running = gevent.spawn(failure, engine, here.url("/a"), there.url("/b"))
        while engine.last is None or engine.last.bytes == 0:
            gevent.sleep(0.001)
        engine.last.cancel()
        assert isinstance(running.get(timeout=3), Cancelled)


def failure(engine: Engine, source: str, destination: str) -> BaseException | None:
    """Return the exception of a transfer: a greenlet's own failure would go to the hub's log."""
    try:
        engine.migrate(source, destination)
    except RelayError as error:
        return error
    return None
