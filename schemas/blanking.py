"""Secrets: refused in URIs, and blanked in every text that leaves the process. Credentials are ambient: they come from
the environment or the machine's identity, never from a flag."""

import os
import re
from urllib.parse import unquote, urlsplit

from schemas.errors import InputError

BLANK = "***"
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
_LEAST_SECRET = 6
"""Shorter values of these variables are no secrets, and blanking them would take words away."""

_SECRET_NAME = (
    r"(?:[\w-]*(?:signature|secret|password|passwd|credential|api[_-]?key|account_?key|access_?key(?:_?id)?)[\w-]*"
    r"|[\w-]*token|x-(?:amz|goog|ms)-[\w-]+|sig|sas|auth|authorization|private_key|pwd|key|aws_?access_?key_?id)"
)
_IS_SECRET_NAME = re.compile(_SECRET_NAME, re.IGNORECASE)
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
    for secret in filter(None, map(os.environ.get, SECRET_VARIABLES)):
        if len(secret) >= _LEAST_SECRET:
            text = text.replace(secret, BLANK)
    text = _USER_INFO.sub(lambda m: f"{m['head'] or m['plain']}{BLANK}@", text)
    text = _QUERY.sub(lambda m: m["head"] + _VALUE.sub(f"={BLANK}", m["query"]), text)
    text = _BEARER.sub(rf"\g<kind> {BLANK}", text)
    text = _NAMED.sub(rf"\g<name>\g<is>{BLANK}", text)
    return _KEY_ID.sub(BLANK, text)


def refuse_credentials(uri: str) -> None:
    """Raises InputError for a URI that carries credentials: it would travel in plans and manifests."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return
    user, _, host = rest.split("/", 1)[0].rpartition("@")
    query = urlsplit(uri).query if scheme in ("http", "https") else rest.partition("?")[2]
    names = [unquote(pair.partition("=")[0]) for pair in re.split("[&;]", query) if "=" in pair]
    # container@account.host is how Azure writes a place; elsewhere whatever stands before an '@' is a user
    is_user = ":" in user or not _PORT.fullmatch(host) or (user and scheme not in ("az", "abfs", "hf"))
    if is_user or any(_IS_SECRET_NAME.fullmatch(name) for name in names):
        raise InputError(
            f"{blanked(uri)}: carries credentials; leave them out of the URI: they are taken from the environment or "
            "the machine's identity"
        )
