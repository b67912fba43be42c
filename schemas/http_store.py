"""http(s): read on request, and never from where only this machine's network leads.

What is checked is the address that a connection is about to be made to, whatever name, spelling or redirect led there.
"""

import ipaddress
import socket
from typing import Any

from schemas.blanking import blanked
from schemas.errors import InputError
from schemas.splits import FileInfo
from schemas.store_faults import Changed, NotAllowed
from schemas.stores import Entry, ReadOnly, check_range, plain_tag

NO_HTTP, PUBLIC_HTTP, ANY_HTTP = "no", "public", "any"
"""What a run may read: nothing by http, public addresses only, any address."""
CONNECT_SECONDS, SILENCE_SECONDS = 10, 30
_NOT_PUBLIC = [ipaddress.ip_network(place) for place in ("168.63.129.16/32", "192.0.0.0/24", "3fff::/20")]
"""Azure's and Oracle's metadata services, which are public addresses by their number, and one of documentation."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out for the internet. Python counts more as global, as fec0::/10 and 64:ff9b:1::/48."""

_permitted = NO_HTTP


def permit_http(level: str) -> None:
    """What this process may read by http. Each process of a run is told by its own piece of the plan."""
    global _permitted
    _permitted = level


def permitted_http() -> str:
    return _permitted


def is_public(address: str) -> bool:
    """Whether an IP address leads out to the internet: not private, loopback, link-local, reserved or a cloud's
    metadata service, nor an IPv6 address that wraps such an IPv4 one."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        teredo = ip.teredo[1] if ip.teredo else None
        nat64 = ipaddress.ip_address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        inner = ip.ipv4_mapped or ip.sixtofour or teredo or nat64
        if inner:
            return is_public(str(inner))
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in place for place in _NOT_PUBLIC)


class AddressRefused(NotAllowed, PermissionError):
    """A connection to an address that is not to be read from. An OSError, so that the next address is tried."""


def _checked_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, place = address
    if _permitted != ANY_HTTP and not is_public(place[0]):
        raise AddressRefused(f"{place[0]} is a private, local or metadata address; allow it: --allow_private_http")
    return socket.socket(family, kind, protocol)


async def _session(**options: Any) -> Any:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=_checked_socket, happy_eyeballs_delay=None),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
        headers={"Accept-Encoding": "identity"},  # or sizes and ranges would be those of something else
        auto_decompress=False,
        **options,
    )


class Http(ReadOnly):
    """A URL names a file: a pattern or a folder is nothing that http has. `entries` reads a server's index page."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._by_rule: dict[str, Any] = {}

    @property
    def fs(self) -> Any:
        """One for each rule: a connection that a laxer one allowed is not used again under a stricter."""
        if _permitted not in self._by_rule:
            self._fs = None
            self._by_rule[_permitted] = super().fs
        return self._by_rule[_permitted]

    def means_folder(self, uri: str) -> bool:
        return False

    def connect(self) -> Any:
        from fsspec.implementations.http import HTTPFileSystem

        return HTTPFileSystem(get_client=_session, skip_instance_cache=True, use_listings_cache=False)

    def path(self, uri: str) -> str:
        return uri

    def uri(self, path: str) -> str:
        return path

    def has_wildcard(self, path: str) -> bool:
        return False

    def entry(self, path: str) -> Entry:
        return self.run(self._entry, path)

    async def _entry(self, url: str) -> Entry:
        """One byte is asked for: that tells the size, and servers that refuse HEAD are many."""
        session = await self.fs.set_session()
        async with session.get(self.fs.encode_url(url), headers={"Range": "bytes=0-0"}) as answer:
            if answer.status != 416:  # of an empty file there is no first byte
                self.fs._raise_not_found_for_status(answer, url)
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = total if answer.status in (206, 416) else answer.headers.get("Content-Length", "")
            if not size.isdigit():
                raise OSError("the server does not say how large it is")
            tag = _tag(answer.headers)
            if not tag and int(size):
                raise InputError(
                    f"{blanked(url)}: its server sends neither ETag nor Last-Modified, so a change of the file would "
                    "not be seen; download it, and name the copy"
                )
            return {"name": url, "size": int(size), "type": "file", "etag": tag}

    def fetch(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        return self.run(self._get, path, file, start, stop, moves=stop)

    async def _get(self, url: str, file: FileInfo, start: int, stop: int) -> bytes:
        session = await self.fs.set_session()
        async with session.get(self.fs.encode_url(url), headers={"Range": f"bytes={start}-{stop - 1}"}) as answer:
            self.fs._raise_not_found_for_status(answer, url)
            if file.etag and _tag(answer.headers) != file.etag:
                raise Changed
            if answer.status == 206:
                said = answer.headers.get("Content-Range", "")
                total = said.rpartition("/")[2]
                if total.isdigit() and int(total) != file.size:
                    raise Changed
                check_range(said, start, stop)
                return await answer.read()
            if answer.content_length not in (None, file.size):
                raise Changed
            return await _middle(answer.content, start, stop)


def _tag(headers: Any) -> str:
    """What tells one version of a file from another: as `Store.info` would have it."""
    return plain_tag(headers.get("ETag") or "") or headers.get("Last-Modified") or ""


async def _middle(body: Any, start: int, stop: int) -> bytes:
    """Of a server that knows no ranges and sends all: what was asked for."""
    kept, at = [], 0
    async for chunk in body.iter_chunked(1 << 20):
        kept.append(chunk[max(start - at, 0) : max(stop - at, 0)])
        at += len(chunk)
        if at >= stop:
            break
    return b"".join(kept)
