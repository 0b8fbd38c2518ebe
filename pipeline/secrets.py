"""Texts and values without the secrets in their URLs; all that is shown, logged or written down goes through here."""

import re
import sys
from itertools import zip_longest
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

HIDDEN = "…"
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,40}://", re.IGNORECASE)  # bounded: time grows with the length of a text alone
_WITHOUT_USER = ("sqlite", "file", "memory", "local")  # an @ in these is a part of a path
_STORES = (  # an @ behind the host is a part of a path, where the host has no user in front of it
    *("http", "https", "s3", "s3a", "s3n", "gs", "gcs", "az", "adl", "abfs", "abfss", "hf", "hdfs", "webhdfs", "oss"),
    *("oci", "r2", "b2", "dropbox", "gdrive", "github", "ftp", "sftp", "ssh"),
)
_NAMES = r"pass|pwd|secret|token|key|sig|cred|auth|code"  # in the names of a query
_PAIR = re.compile(r"(?<![\w-])([\w-]+)=")
_SECRET = re.compile(r"password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|signature", re.IGNORECASE)
_VALUE = re.compile(r"(?!…)[^\s&;,'\")]+")
_SHORT = 4  # characters; shorter secrets are hidden in URLs, but not looked for in other words


def shown(text: object, /, *urls: str | None) -> str:
    """Return a text without user names, passwords, query strings and tokens of the URLs in it.

    Args:
        text: A URL, or any text, as the message of another package.
        urls: URLs whose secrets may stand in the text alone; those of the command line are looked for in any case.
    """
    found = _hide_urls(str(text))
    for url in (*urls, *sys.argv[1:]):
        if url and "://" in url:
            for secret in _secrets(url):
                found = found.replace(secret, HIDDEN)
    return _hide_pairs(found)


def without_secrets(value: Any, /) -> Any:
    """Return a JSON value, every string in it as `shown` gives it; other values are left as they are."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    if isinstance(value, tuple):
        return tuple(without_secrets(item) for item in value)
    return shown(value) if isinstance(value, str) else value


def describe_error(error: BaseException, /) -> str:
    """Type and first line of an error, without secrets."""
    lines = shown(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__


def _hide_pairs(text: str) -> str:
    """Hide the values of `password=…` and the like."""
    parts, at = [], 0
    for name in _PAIR.finditer(text):
        if name.start() >= at and _SECRET.search(name[1]) and (value := _VALUE.match(text, name.end())):
            parts += [text[at : name.end()], HIDDEN]
            at = value.end()
    return "".join([*parts, text[at:]])


def _hide_urls(text: str) -> str:
    """Hide the secrets of every URL; one ends at white space, at the next one, or where its quotes end."""
    parts, at = [], 0
    starts = list(_URL.finditer(text))
    for found, following in zip_longest(starts, starts[1:]):
        parts.append(text[at : found.end()])
        word = re.match(r"\S*", text[found.end() : following.start() if following else None])
        assert word is not None
        body = word[0]
        at = found.end() + len(body)
        before = text[found.start() - 1 : found.start()]
        if before in ("'", '"', "`", "(", "<"):
            end = body.rfind({"(": ")", "<": ">"}.get(before, before))
            if end >= 0:
                at -= len(body) - end
                body = body[:end]
        parts.append(_hide(found[0][:-3], body))
    return "".join([*parts, text[at:]])


def _hide(scheme: str, body: str) -> str:
    """Return the part of a URL after `scheme://` without its secrets."""
    body = body[_end_of_user(scheme, body) :]
    body, mark, _ = body.partition("?")
    if mark:
        return f"{body}?{HIDDEN}"
    body, mark, fragment = body.partition("#")
    return f"{body}#{HIDDEN if '=' in fragment else fragment}" if mark else body


def _end_of_user(scheme: str, body: str) -> int:
    """Where user name and password end: behind the last @ that can be theirs, as they may hold any other character."""
    kind = scheme.lower().partition("+")[0]
    if kind in _WITHOUT_USER:
        return 0
    authority = re.split(r"[/?#\\]", body, maxsplit=1)[0]
    port = authority.rpartition(":")[2] if ":" in authority and not authority.endswith("]") else ""
    begins_with_user = "@" in authority or (port != "" and not port.isdigit())
    return body.rfind("@") + 1 if begins_with_user or kind not in _STORES else 0


def _secrets(url: str) -> list[str]:
    """The secrets of a URL as they may stand in another text: as given, decoded and encoded; the longest first."""
    start = _URL.search(url)
    if start is None:
        return []
    scheme, body = start[0][:-3], url[start.end() :]
    user = body[: max(0, _end_of_user(scheme, body) - 1)]
    name, colon, password = user.partition(":")
    found = {user, password} if colon else {name} if scheme.lower() in ("http", "https") else set()  # GitHub's tokens
    query = re.split(r"[?#]", body[len(user) :], maxsplit=1)[1:]
    found |= {value for key, value in parse_qsl("&".join(query)) if re.search(_NAMES, key, re.IGNORECASE)}
    found |= {form(each) for each in found for form in (unquote, quote)} | set(re.split(r"[/?#@:%'\"]", password))
    return sorted((each for each in found if len(each) >= _SHORT), key=len, reverse=True)
