"""Secrets: refused in URIs, and blanked in every text that leaves the process. Credentials are ambient: they come from
the environment or the machine's identity, never from a flag."""

import functools
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

from schemas.errors import InputError

BLANK = "***"
_SECRET_VARIABLE = re.compile(
    r"(?:.*_)?(?:SECRETS?|TOKEN|PASS|PASSWORD|PASSWD|PASSPHRASE|JWT|SAS|CREDENTIALS?|CONNECTION_STRING|API_?KEY"
    r"|(?:ACCESS|ACCOUNT|PRIVATE|SECRET|SIGNING)_KEY)(?:_(?!.*(?:FILE|PATH|DIR|URI|URL|ENDPOINT|NAME)$).*)?",
    re.IGNORECASE,
)
"""Variables of the environment whose values are secrets, whoever reads them: AWS_SECRET_ACCESS_KEY, HF_TOKEN,
AZURE_STORAGE_CONNECTION_STRING, FSSPEC_S3_SECRET."""
_NOT_SECRET = ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE")  # paths
_LEAST_SECRET = 6
"""Shorter values of these variables are no secrets, and blanking them would take words away."""

_SECRET_NAME = (
    r"(?:[\w-]*(?:signature|secret|password|passwd|credential|api[_-]?key|account_?key|access_?key(?:_?id)?)[\w-]*"
    r"|[\w-]*token|x-(?:amz|goog|ms)-[\w-]+|sig|sas|auth|authorization|private_key|pwd|key|aws_?access_?key_?id"
    r"|jwt|pass|passphrase|otp)"
)
_IN_URLS = r"|code|session|session_?id|sid|ticket"
"""Secrets by these names too; elsewhere `code=404` is none."""
_IS_SECRET_NAME = re.compile(_SECRET_NAME[:-1] + _IN_URLS + ")", re.IGNORECASE)
_USER_INFO = re.compile(
    r"\b(?P<head>[a-z][a-z0-9+.-]*://)[^\s'\"<>@]*:[^\s'\"<>]*@"  # keys have slashes in them: too much rather than less
    r"|\b(?P<plain>(?!(?:az|abfs|hf):)[a-z][a-z0-9+.-]*://)[^\s'\"<>@/]*@",
    re.IGNORECASE,
)
_QUERY = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s?#'\"<>]*\?)(?P<query>[^\s#'\"<>]*=[^\s#'\"<>]*)", re.IGNORECASE)
_VALUE = re.compile(r"=[^&;]*")
_NAMED = re.compile(
    rf"(?<![\w-])(?P<name>{_SECRET_NAME})(?P<is>[\"']?\s*=\s*[\"']?|[\"']\s*:\s*[\"']?)[^\s\"'&;,<>]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(?P<kind>bearer|basic|sharedkey)\s+[\w.~+/=:%-]{6,}", re.IGNORECASE)
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA|AROA)[A-Z0-9]{12,}\b|\bhf_[A-Za-z0-9]{8,}\b|\bya29\.[\w.-]+")
_PORT = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(:\d*)?")


def blanked(text: str) -> str:
    """The text without its secrets: user and password of URLs, all values of their query strings, what is assigned to
    a name that says secret, key ids, and the values of the environment's credentials wherever they stand."""
    text = _any_of(tuple(_secret_values())).sub(BLANK, text)
    text = _USER_INFO.sub(lambda m: f"{m['head'] or m['plain']}{BLANK}@", text)
    text = _QUERY.sub(lambda m: m["head"] + _VALUE.sub(f"={BLANK}", m["query"]), text)
    text = _BEARER.sub(rf"\g<kind> {BLANK}", text)
    text = _NAMED.sub(rf"\g<name>\g<is>{BLANK}", text)
    return _KEY_ID.sub(BLANK, text)


def _secret_values() -> Iterator[str]:
    for name in os.environ:
        if _is_secret_variable(name):
            yield os.environ[name]
        elif name.startswith("FSSPEC_"):  # FSSPEC_S3='{"secret": ...}'
            yield from _secrets_of_json(os.environ[name])


@functools.lru_cache(maxsize=4096)
def _is_secret_variable(name: str) -> bool:
    return name not in _NOT_SECRET and _SECRET_VARIABLE.fullmatch(name) is not None


@functools.lru_cache(maxsize=64)
def _secrets_of_json(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    pairs = found.items() if isinstance(found, dict) else ()
    return [value for name, value in pairs if isinstance(value, str) and _IS_SECRET_NAME.fullmatch(name)]


@functools.lru_cache(maxsize=64)
def _any_of(secrets: tuple[str, ...]) -> re.Pattern[str]:
    """The secrets as they stand and as URLs have them; the longest first, as one may lie in another."""
    known = sorted({secret for secret in secrets if len(secret) >= _LEAST_SECRET}, key=len, reverse=True)
    return re.compile("|".join("".join(map(_in_a_url, secret)) for secret in known) or r"(?!)")


@functools.lru_cache(maxsize=1024)
def _in_a_url(character: str) -> str:
    """A pattern of the character and of what percent-encoding makes of it."""
    encoded = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
    return f"(?:{re.escape(character)}|(?i:{encoded}){'|[+]' if character == ' ' else ''})"


def refuse_credentials(uri: str) -> None:
    """Raises InputError for a URI that carries credentials: it would travel in plans and manifests."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return
    user, _, host = rest.split("/", 1)[0].rpartition("@")
    tail = "".join(re.split("[?;#]", rest, maxsplit=1)[1:])  # folders may be called `key=5`
    names = [unquote(pair.partition("=")[0]) for pair in re.split("[?&;#]", tail) if "=" in pair]
    # container@account.host is how Azure writes a place; elsewhere whatever stands before an '@' is a user
    is_user = ":" in user or not _PORT.fullmatch(host) or (user and scheme not in ("az", "abfs", "hf"))
    if is_user or any(_IS_SECRET_NAME.fullmatch(name) for name in names):
        raise InputError(
            f"{blanked(uri)}: carries credentials; leave them out of the URI: they are taken from the environment or "
            "the machine's identity"
        )
