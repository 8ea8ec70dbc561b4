"""Strict JSON and the envelope: every bad body that does not need a raw socket."""

from __future__ import annotations

import gc
import json
import random
import weakref
from contextlib import suppress
from time import process_time
from typing import Any, NoReturn

import gevent
import pytest
from flask.testing import FlaskClient

from relay.api.app import create_app
from relay.api.strict_json import BRACKETS_LIMIT, DEPTH_LIMIT, parse, read_body
from relay.config import Settings
from relay.engine.transfer_engine import TransferEngine
from relay.errors import RequestError, RequestTimeout


class Drip:
    """A body that does not come."""

    def read(self, count: int) -> bytes:
        """Wait for ever."""
        gevent.sleep(60)
        return b""


GOOD = {"source": "https://a.example/x", "destination": "https://b.example/x"}


class Unreachable:
    """Stores that must not be contacted."""

    def source(self, location: object, meter: object) -> NoReturn:
        """Fail the test."""
        raise AssertionError("the request was not refused")

    destination = source


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    """Return a client of an application that cannot dial: each request here must be refused
    before."""
    return create_app(TransferEngine(Settings(), stores=Unreachable())).test_client()


def post(client: FlaskClient, body: bytes | str, **headers: str) -> tuple[int, dict[str, Any]]:
    """Post a body; return the status and the problem."""
    given = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    response = client.post("/migrate", data=body, headers={n: v for n, v in given.items() if v})
    assert response.mimetype == "application/problem+json"
    problem = json.loads(response.data)
    assert problem["status"] == response.status_code
    assert problem["side"] == "request"
    return response.status_code, problem


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed-json"),  # B03
        (b"  \n", 400, "malformed-json"),
        (b'{"source": "https://a', 400, "malformed-json"),  # B04
        (b'{"source": 1,}', 400, "malformed-json"),
        (b"{} {}", 400, "malformed-json"),
        (b'{"a": "\n"}', 400, "malformed-json"),
        (b"[" * 100_000, 400, "json-too-deep"),  # B07
        (b"[" * 500 + b"]" * 500, 400, "json-too-deep"),
        (b'{"a":' * 30 + b"1" + b"}" * 30, 400, "json-too-deep"),
        (b"[[],[]," * 1000 + b"1]", 400, "json-too-deep"),
        (b'{"a": %s}' % (b"9" * 5000), 400, "malformed-json"),  # B08
        (b'{"a": NaN}', 400, "malformed-json"),  # B09
        (b'{"a": Infinity}', 400, "malformed-json"),
        (b'{"a": -Infinity}', 400, "malformed-json"),
        (b'{"a": 1e400}', 400, "malformed-json"),
        (b'{"a": -1e400}', 400, "malformed-json"),
        (b'{"source": "x", "source": "y"}', 400, "duplicate-json-member"),  # B10
        (b'{"source": {"url": "x", "url": "y"}}', 400, "duplicate-json-member"),
        (b'{"sou\\u0072ce": "x", "source": "y"}', 400, "duplicate-json-member"),
        (b"\xef\xbb\xbf{}", 400, "malformed-json"),  # B11
        ('{"a": 1}'.encode("utf-16"), 400, "malformed-json"),
        ('{"a": 1}'.encode("utf-16-le"), 400, "malformed-json"),
        (b'{"a": "\xff"}', 400, "malformed-json"),
        (b'{"a": "\xed\xa0\x80"}', 400, "malformed-json"),
        (b'{"a": "\\ud800"}', 400, "malformed-json"),
        (b'{"\\uDfff": 1}', 400, "malformed-json"),
        (b"[]", 422, "invalid-request"),  # B12
        (b'"x"', 422, "invalid-request"),
        (b"null", 422, "invalid-request"),
        (b"true", 422, "invalid-request"),
        (b"1", 422, "invalid-request"),
    ],
)
def test_bodies(client: FlaskClient, body: bytes, status: int, code: str) -> None:
    """Each is refused with its own code, and the type is an absolute URI."""
    got, problem = post(client, body)
    assert (got, problem["type"].rpartition("/")[2]) == (status, code)
    assert problem["type"].startswith("https://")
    assert problem["instance"].startswith("urn:uuid:")
    assert problem["detail"] and problem["hint"] and problem["title"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content_Type": ""}, 415, "unsupported-media-type"),  # B02
        ({"Content_Type": "text/plain"}, 415, "unsupported-media-type"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415, "unsupported-media-type"),
        ({"Content_Type": "application/json; charset=utf-16"}, 415, "unsupported-media-type"),
        ({"Content_Type": "application/jsonx"}, 415, "unsupported-media-type"),
        ({"Content_Encoding": "gzip"}, 415, "unsupported-media-type"),  # B17
    ],
)
def test_envelopes(client: FlaskClient, headers: dict[str, str], status: int, code: str) -> None:
    """The media type and the coding are checked before the body is read."""
    got, problem = post(client, json.dumps(GOOD), **headers)
    assert (got, problem["type"].rpartition("/")[2]) == (status, code)


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=utf-8"],
)
def test_json_media_types_are_taken(client: FlaskClient, media_type: str) -> None:
    """The spellings of plain JSON pass; then the missing member of the empty object is refused."""
    status, problem = post(client, "{}", Content_Type=media_type)
    assert (status, problem["type"].rpartition("/")[2]) == (422, "missing-member")


def test_announced_size_is_refused_before_reading(client: FlaskClient) -> None:
    """B05: an announced body of ten GiB is refused without reading it."""
    response = client.post(
        "/migrate",
        headers={"Content-Type": "application/json"},
        environ_overrides={"CONTENT_LENGTH": str(10 << 30)},
    )
    assert (response.status_code, json.loads(response.data)["type"].rpartition("/")[2]) == (
        413,
        "request-too-large",
    )


def test_short_body_is_not_parsed(client: FlaskClient) -> None:
    """F94: a prefix that happens to be JSON is not the request."""
    body = json.dumps(GOOD).encode()
    response = client.post(
        "/migrate",
        data=body,
        headers={"Content-Type": "application/json"},
        environ_overrides={"CONTENT_LENGTH": str(len(body) + 5)},
    )
    assert (response.status_code, json.loads(response.data)["type"].rpartition("/")[2]) == (
        400,
        "malformed-json",
    )


def object_of(pattern: str, count: int = 90_000) -> str:
    """Return an object of `count` members with distinct names."""
    return "{" + ",".join(pattern % number for number in range(count)) + "}"


@pytest.mark.parametrize(
    "body",
    [
        object_of('"%x":1'),
        object_of('"%x":1').removesuffix("}") + ',"0":1}',  # one of them twice
        '{"source":{"url":"http://a.example/","headers":' + object_of('"%x":1') + "}}",
        '{"source":{"url":"http://a.example/","headers":' + object_of('"%x":""') + "}}",
        '{"limits":' + object_of('"%x":null') + "}",
        '{"source":[' + ",".join([object_of('"%x":1', 1001)] * 80) + "]}",
    ],
    ids=[
        "unknown",
        "twice",
        "headers of wrong types",
        "empty headers",
        "limits",
        "objects of a list",
    ],
)
def test_a_body_full_of_members_costs_its_parse(client: FlaskClient, body: str) -> None:
    """Work for each member must not add up for the hundred thousand members that a body has room
    for: the hub waits for it."""
    began = process_time()
    status, problem = post(client, body)
    assert (status, problem["type"].rpartition("/")[2]) == (413, "request-too-large")
    assert (
        process_time() - began < 1.0
    )  # the parse is 0.05 s; a count for each member took minutes, an error 0.8 s


SECRET = "hunter2hunter2"
SIGNED = {"destination": f"https://b.example/y?X-Amz-Signature={SECRET}"}


@pytest.mark.parametrize(
    ("members", "status", "code", "pointer"),
    [
        (
            {"source": "https://a.example/x", "dest": "https://b.example/x"},
            422,
            "unknown-member",
            "/dest",
        ),  # B13
        (GOOD | {"recursively": True}, 422, "unknown-member", "/recursively"),
        (GOOD | {"server_copy": "no"}, 422, "invalid-type", "/server_copy"),
        (GOOD | {"recursive": "yes"}, 422, "invalid-type", "/recursive"),
        (GOOD | {"a/b~c": 1}, 422, "unknown-member", "/a~1b~0c"),
        (GOOD | {"limits": {"text": 1}}, 422, "unknown-member", "/limits/text"),
        (GOOD | {"filters": {"inclde": ["a"]}}, 422, "unknown-member", "/filters/inclde"),
        (GOOD | {"filters": {"include": "a"}}, 422, "invalid-type", "/filters/include"),
        (GOOD | {"filters": {"include": ["a"]}}, 422, "invalid-filter", "/filters"),
        (GOOD | {"filters": {"min_size": 1.5}}, 422, "invalid-type", "/filters/min_size"),
        (GOOD | {"filters": {"min_size": "1Q"}}, 422, "invalid-filter", "/filters/min_size"),
        (GOOD | {"filters": {"exclude_from": ["[a"]}}, 422, "invalid-filter", "/filters/exclude"),
        (GOOD | {"limits": {"object": 1}}, 422, "unknown-member", "/limits/object"),
        (
            GOOD | {"source": {"url": "https://a.example/x", "method": "GET"}},
            422,
            "unknown-member",
            "/source/method",
        ),
        (GOOD | {"source": 1}, 422, "invalid-type", "/source"),  # B14
        (GOOD | {"source": True}, 422, "invalid-type", "/source"),
        (GOOD | {"source": None}, 422, "invalid-type", "/source"),
        (GOOD | {"source": ["https://a.example/x"]}, 422, "invalid-type", "/source"),
        (GOOD | {"source": {"url": 1}}, 422, "invalid-type", "/source/url"),
        (
            GOOD | {"source": {"url": "https://a.example/", "headers": [SECRET]}},
            422,
            "invalid-type",
            "/source/headers",
        ),
        (
            GOOD | {"source": {"url": "https://a.example/", "headers": {"A": 1}}},
            422,
            "invalid-type",
            "/source/headers/A",
        ),
        (
            GOOD | {"destination": {"url": "https://b.example/", "method": "DELETE"}},
            422,
            "invalid-type",
            "/destination/method",
        ),
        (
            GOOD | {"destination": {"url": "https://b.example/", "method": "put"}},
            422,
            "invalid-type",
            "/destination/method",
        ),
        (GOOD | {"verify": "none"}, 422, "invalid-type", "/verify"),
        (GOOD | {"verify": None}, 422, "invalid-type", "/verify"),
        (GOOD | {"verify": True}, 422, "invalid-type", "/verify"),
        (GOOD | {"if_exists": "replace"}, 422, "invalid-type", "/if_exists"),
        ({}, 422, "missing-member", "/source"),  # B15
        ({"source": "https://a.example/x"}, 422, "missing-member", "/destination"),
        (GOOD | {"source": {}}, 422, "missing-member", "/source/url"),
        (
            GOOD | {"source": f"https://u:{SECRET}@a.example/"},
            422,
            "credentials-in-url",
            "/source",
        ),  # B41
        (
            GOOD | {"source": {"url": f"https://u:{SECRET}@a.example/"}},
            422,
            "credentials-in-url",
            "/source/url",
        ),
        (GOOD | {"source": "file:///etc/passwd"}, 422, "unsupported-scheme", "/source"),  # B25
        (GOOD | {"destination": "/x"}, 422, "invalid-url", "/destination"),  # B26
        (GOOD | {"destination": ""}, 422, "invalid-url", "/destination"),
        (GOOD | {"destination": "https://b.example/a/../b"}, 422, "unsafe-key", "/destination"),
        (
            GOOD | {"source": "https://a.example/" + "x" * 9000},
            422,
            "url-too-long",
            "/source",
        ),  # B44
        (GOOD | {"source": "http://10.0.0.1/"}, 403, "egress-denied", None),  # B29
        (
            GOOD | {"source": "http://169.254.169.254/latest/meta-data/"},
            403,
            "egress-denied",
            None,
        ),  # B30
        (GOOD | {"destination": "https://b.example:22/"}, 403, "port-denied", None),  # B42
        (GOOD | {"destination": "https://a.example/x"}, 422, "same-object", None),
        (
            GOOD | SIGNED | {"verify": "read_back"},
            422,
            "verification-unavailable",
            "/verify",
        ),  # B78
    ],
)
def test_members(
    client: FlaskClient, members: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    """Names, types and URLs, each with its pointer and without the value."""
    response = client.post("/migrate", json=members)
    problem = json.loads(response.data)
    assert (response.status_code, problem["type"].rpartition("/")[2]) == (status, code), problem
    assert problem.get("errors", [{}])[0].get("pointer") == pointer
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("headers", "code", "name"),
    [
        ({"X-A": f"a\r\nX-B: {SECRET}"}, "invalid-header", "/X-A"),  # B51
        ({"X-A": f"{SECRET}\u0000"}, "invalid-header", "/X-A"),
        ({"X-A": f"{SECRET}\u20ac"}, "invalid-header", "/X-A"),
        ({"X-A": ""}, "invalid-header", "/X-A"),
        ({"Host": "evil.example"}, "forbidden-header", "/Host"),  # B52
        ({"content-length": "1"}, "forbidden-header", "/content-length"),
        ({"Transfer-Encoding": "chunked"}, "forbidden-header", "/Transfer-Encoding"),
        ({"Proxy-Authorization": SECRET}, "forbidden-header", "/Proxy-Authorization"),
        ({"X-Forwarded-For": "1.2.3.4"}, "forbidden-header", "/X-Forwarded-For"),
        ({f"Authorization: {SECRET}": "x"}, "invalid-header", ""),  # B53
        ({"": "x"}, "invalid-header", ""),
        ({"Ünicode": "x"}, "invalid-header", ""),
        ({"A": "1", "a": "2"}, "invalid-header", "/a"),
        ({f"X-{n}": "1" for n in range(101)}, "invalid-header", ""),  # B54
        ({"X-A": "x" * 9000}, "invalid-header", "/X-A"),
    ],
)
@pytest.mark.parametrize("side", ["source", "destination"])
def test_headers(
    client: FlaskClient, side: str, headers: dict[str, str], code: str, name: str
) -> None:
    """Bad locations through the API: 422 with a pointer, the value never repeated."""
    members = GOOD | {side: {"url": f"https://{side}.example/x", "headers": headers}}
    response = client.post("/migrate", json=members)
    problem = json.loads(response.data)
    assert (response.status_code, problem["type"].rpartition("/")[2]) == (422, code), problem
    assert problem["errors"][0]["pointer"] == f"/{side}/headers{name}"
    assert SECRET not in response.text


def test_depth_and_width_limits() -> None:
    """Values just within the limits pass."""
    deep = b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT
    assert parse(deep) is not None
    with pytest.raises(RequestError):
        parse(b"[" + deep + b"]")
    wide = b"[" + b",".join([b"[]"] * (BRACKETS_LIMIT - 1)) + b"]"
    assert len(parse(wide)) == BRACKETS_LIMIT - 1


def test_pairs_of_surrogates_are_characters() -> None:
    """An escaped pair is one character, and never half of one."""
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_any_damage_is_refused_or_parsed() -> None:
    """No damaged body raises anything but a RequestError."""
    chance, good = (
        random.Random(3),
        bytearray(json.dumps({"source": {"url": "a\u00e9", "headers": {"A": "b"}}}).encode()),
    )
    for _ in range(3000):
        damaged = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            parse(bytes(damaged))
        except RequestError as error:
            assert error.status == 400


def test_a_late_body_leaves_nothing_to_the_collector() -> None:
    """The collector comes seldom: slow clients would keep some megabytes a minute until then."""
    body = Drip()
    kept = weakref.ref(body)
    gc.disable()
    try:
        with suppress(RequestTimeout):
            read_body({"wsgi.input": body, "CONTENT_LENGTH": "9"}, 100, 0.01)
        del body
        gevent.sleep(0)  # the hub returns from the timer that raised the error
        assert kept() is None
    finally:
        gc.enable()
