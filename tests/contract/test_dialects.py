"""PROPFIND as real servers answer it: each in its own form, always the same folder."""

from __future__ import annotations

import pytest

from relay.stores.webdav.account import webdav_location
from relay.stores.webdav.store import WebDavStore
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK
from tests.scripted import Peer, Talk

WHEN = "Tue, 24 Nov 2026 02:16:31 GMT"

APACHE = f"""<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/"><D:href>/dav/f/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><ns0:getcontentlength/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/f/a%20b.bin</D:href><D:propstat><D:prop><lp1:resourcetype/>
<lp1:getcontentlength>12</lp1:getcontentlength><lp1:getetag>"1-2"</lp1:getetag>
<lp1:getlastmodified>{WHEN}</lp1:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/f/sub/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
</D:response>
</D:multistatus>"""

NEXTCLOUD = f"""<?xml version="1.0"?>
<d:multistatus xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns" xmlns:oc="http://owncloud.org/ns">
<d:response><d:href>/dav/f/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
<d:response><d:href>/dav/f/a%20b.bin</d:href><d:propstat><d:prop><d:getlastmodified>{WHEN}</d:getlastmodified>
<d:getcontentlength>12</d:getcontentlength><d:resourcetype/><d:getetag>&quot;1-2&quot;</d:getetag></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
<d:response><d:href>/dav/f/sub/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat><d:propstat><d:prop><d:getcontentlength/></d:prop>
<d:status>HTTP/1.1 404 Not Found</d:status></d:propstat></d:response></d:multistatus>"""

IIS = f"""<?xml version="1.0" encoding="utf-8"?><a:multistatus xmlns:a="DAV:" xmlns:b="urn:uuid:c2f41010/">
<a:response><a:href>http://HOST/dav/f/</a:href><a:propstat><a:status>HTTP/1.1 200 OK</a:status><a:prop>
<a:resourcetype><a:collection/></a:resourcetype></a:prop></a:propstat></a:response>
<a:response><a:href>http://HOST/dav/f/a%20b.bin</a:href><a:propstat><a:status>HTTP/1.1 200 OK</a:status><a:prop>
<a:getcontentlength b:dt="int">12</a:getcontentlength>
<a:getlastmodified b:dt="dateTime.rfc1123">{WHEN}</a:getlastmodified>
<a:getetag>"1-2"</a:getetag><a:resourcetype/></a:prop></a:propstat></a:response>
<a:response><a:href>http://HOST/dav/f/sub</a:href><a:propstat><a:status>HTTP/1.1 200 OK</a:status><a:prop>
<a:resourcetype><a:collection/></a:resourcetype></a:prop></a:propstat></a:response></a:multistatus>"""

NO_NAMES = f"""<?xml version="1.0"?><multistatus xmlns="DAV:">
<response><href>/dav/f</href><propstat><prop><resourcetype><collection/></resourcetype></prop>
<status>HTTP/1.1 200 OK</status></propstat></response>
<response><href>
  /dav/f/a%20b.bin
</href><propstat><prop><resourcetype/><getcontentlength> 12 </getcontentlength><getetag>"1-2"</getetag>
<getlastmodified>{WHEN}</getlastmodified></prop></propstat></response>
<response><href>/dav/f/sub/</href><propstat><prop><resourcetype><collection/></resourcetype></prop></propstat></response>
</multistatus>"""


@pytest.mark.parametrize(
    "text",
    [APACHE, NEXTCLOUD, IIS, NO_NAMES],
    ids=["apache", "nextcloud", "iis", "without prefixes or states"],
)
def test_every_dialect_says_the_same(wire: Wire, text: str) -> None:
    def script(talk: Talk) -> None:
        request = talk.head()
        assert request.startswith(b"PROPFIND /dav/f/ ")
        body = text.encode()
        talk.send(b"HTTP/1.1 207 Multi-Status\r\nContent-Length: %d\r\n\r\n" % len(body), body)

    with Peer([script]) as peer:
        folder = webdav_location(peer.url("/dav/f/"))
        found = list(WebDavStore(wire, "source", Watchdog(QUICK)).list(folder))
    assert [(entry.name, entry.size, entry.etag) for entry in found] == [
        ("a b.bin", 12, '"1-2"'),
        ("sub/", None, None),
    ]
    assert found[0].modified is not None
    assert found[0].modified.isoformat() == "2026-11-24T02:16:31+00:00"
