"""A bad network between relay and its clouds, by the simulators' proxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.engine.plan import Plan
from relay.errors import ConnectFailed, ConnectionLost, IntegrityMismatch, RelayError, StoreTimeout
from relay.location import parse_location
from relay.receipt import State
from simulators.proxy import Proxy
from simulators.spawn import Spawned, spawn
from tests.conftest import Engine

SIZE = 200_000


@pytest.fixture(scope="module")
def clouds() -> Iterator[tuple[Spawned, Spawned]]:
    """Return a source and a keeping destination."""
    with spawn("src") as source, spawn("dst", "--keep") as destination:
        yield source, destination


def migrate_through(engine: Engine, source: str, destination: str, size: int = SIZE) -> State:
    """Migrate between two addresses, either of which may be a proxy's, and return the state."""
    plan = Plan(
        parse_location(f"{source}/objects/a?size={size}"),
        parse_location(f"{destination}/b", destination=True),
    )
    return engine.runner.run(engine.runner.transfer(plan)).state


def uploads_received(destination: Spawned) -> list[bool]:
    """Return, for each upload that the destination saw, whether it was whole."""
    return [bool(entry["complete"]) for entry in destination.get_json("/_received")]


def target(cloud: Spawned) -> str:
    return f"127.0.0.1:{cloud.port}"


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize(
    "toxics",
    [
        {"latency": 0.15, "jitter": 0.05},  # F82
        {"rate": 400_000.0},  # F83: slow, and no stall by the rule (here 1 KiB/s over 1 s)
        {"slice": 7},  # F84
        {"slow_close": 1.0},  # F88
    ],
    ids=["F82 latency", "F83 slow", "F84 sliced", "F88 slow close"],
)
def test_a_network_that_is_only_bad_loses_nothing(
    engine: Engine, clouds: tuple[Spawned, Spawned], toxics: dict[str, float], side: str
) -> None:
    source, destination = clouds
    destination.clear("/_received")
    size = 20_000 if "slice" in toxics else SIZE
    with Proxy(target(source if side == "source" else destination), **toxics) as proxy:  # type: ignore[arg-type]
        pair = (proxy.url(), destination.base) if side == "source" else (source.base, proxy.url())
        assert migrate_through(engine, *pair, size=size) is State.VERIFIED
    assert uploads_received(destination) == [True]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(min_value=0, max_value=SIZE - 1),
    st.booleans(),
    st.sampled_from(["cut_after", "reset_after"]),
)
def test_f85_cut_anywhere(
    engine: Engine, clouds: tuple[Spawned, Spawned], cut: int, at_source: bool, toxic: str
) -> None:
    source, destination = clouds
    destination.clear("/_received")
    direction = "down" if at_source else "up"
    with Proxy(
        target(source if at_source else destination), direction=direction, **{toxic: cut}
    ) as proxy:  # type: ignore[arg-type]
        pair = (proxy.url(), destination.base) if at_source else (source.base, proxy.url())
        with pytest.raises(RelayError) as caught:
            migrate_through(engine, *pair)
    assert caught.value.side == ("source" if at_source else "destination")
    assert not any(uploads_received(destination))


@pytest.mark.parametrize("direction", ["up", "down", "both"])
@pytest.mark.parametrize("side", ["source", "destination"])
def test_f86_a_black_hole_ends_by_the_clock(
    engine: Engine, clouds: tuple[Spawned, Spawned], side: str, direction: str
) -> None:
    source, destination = clouds
    destination.clear("/_received")
    cloud = source if side == "source" else destination
    # In the middle of the payload if this direction carries it; from the first byte if it carries
    # only heads.
    carries = {"source": ("down", "both"), "destination": ("up", "both")}[side]
    with Proxy(
        target(cloud), blackhole=direction, blackhole_after=1000 if direction in carries else 0
    ) as proxy:
        pair = (proxy.url(), destination.base) if side == "source" else (source.base, proxy.url())
        with pytest.raises(StoreTimeout) as caught:  # A stalled transfer is retryable, too
            migrate_through(engine, *pair, size=20_000_000)
    assert caught.value.side == side


@pytest.mark.parametrize("side", ["source", "destination"])
def test_f87_a_half_closed_connection_is_a_failure(
    engine: Engine, clouds: tuple[Spawned, Spawned], side: str
) -> None:
    source, destination = clouds
    destination.clear("/_received")
    cloud = source if side == "source" else destination
    direction = "down" if side == "source" else "up"
    with Proxy(target(cloud), half_close=50_000, direction=direction) as proxy:
        pair = (proxy.url(), destination.base) if side == "source" else (source.base, proxy.url())
        with pytest.raises(RelayError) as caught:
            migrate_through(engine, *pair)
    assert caught.value.side == side
    assert not any(uploads_received(destination))


@pytest.mark.parametrize("side", ["source", "destination"])
def test_f89_a_flipped_bit_on_plain_http_is_found(
    engine: Engine, clouds: tuple[Spawned, Spawned], side: str
) -> None:
    source, destination = clouds
    cloud, direction = (source, "down") if side == "source" else (destination, "up")
    # An offset beyond every head of the connection: it falls into the object's bytes.
    with Proxy(target(cloud), flip=100_000, direction=direction) as proxy:
        pair = (proxy.url(), destination.base) if side == "source" else (source.base, proxy.url())
        with pytest.raises(IntegrityMismatch) as caught:
            migrate_through(engine, *pair)
    assert caught.value.side == side
    assert destination.request("HEAD", "/b")[0] == 404 or side == "source"


def test_f89_a_flipped_bit_in_tls_is_a_broken_connection(
    engine: Engine, clouds: tuple[Spawned, Spawned]
) -> None:
    _, destination = clouds
    destination.clear("/_received")
    with spawn("src", "--tls") as source:
        assert source.ca is not None
        made = Engine(Path(source.ca))
        with Proxy(target(source), flip=100_000) as proxy, pytest.raises(ConnectionLost) as caught:
            migrate_through(made, proxy.url(scheme="https"), destination.base)
        made.assert_nothing_left()
    assert caught.value.side == "source"
    assert not any(uploads_received(destination))


def test_f90_a_full_backlog_is_a_connect_timeout(
    engine: Engine, clouds: tuple[Spawned, Spawned]
) -> None:
    _, destination = clouds
    engine.runner.wire.pool.dialer.limits = replace(engine.runner.limits, connect_seconds=0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        try:
            with pytest.raises((StoreTimeout, ConnectFailed)) as caught:
                migrate_through(engine, f"http://127.0.0.1:{port}", destination.base)
        finally:
            for sock in waiting:
                sock.close()
    assert caught.value.retryable
