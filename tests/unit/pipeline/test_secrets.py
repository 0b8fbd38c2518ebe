"""Passwords and tokens in URLs are in nothing that is shown or written."""

import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream.pipeline.secrets import shown, without_secrets
from drawstream.pipeline.shards.labels import as_label
from drawstream.pipeline.shards.tar import split_name

S = "hUnTer2"
URLS = [
    (f"postgresql://user:{S}@db.example/studies", "postgresql://db.example/studies"),
    (f"postgresql+psycopg2://user:{S}@[::1]:5432/studies", "postgresql+psycopg2://[::1]:5432/studies"),
    (f"mysql+pymysql://user:a'{S}@db/studies", "mysql+pymysql://db/studies"),
    (f'mysql+pymysql://user:a"{S}@db/studies', "mysql+pymysql://db/studies"),
    (f"postgresql://user:a@{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a:{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a/{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a?{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a#{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:a%{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://user:1/{S}@db/studies", "postgresql://db/studies"),
    (f"postgresql://db/studies?user=u&password={S}", "postgresql://db/studies?…"),
    (f"redis://:{S}@cache:6379/0", "redis://cache:6379/0"),
    (f"https://{S}@host/train", "https://host/train"),
    (f"https://user:{S}@host:8443/train", "https://host:8443/train"),
    (f"https://user:a/{S}@host/train", "https://host/train"),
    (f"https://host/train?X-Amz-Signature={S}&X-Amz-Date=1", "https://host/train?…"),
    (f"https://host/train?sig={S}", "https://host/train?…"),
    (f"https://host/train#access_token={S}", "https://host/train#…"),
    (f"s3://key:{S}@bucket/train", "s3://bucket/train"),
    (f"simplecache::s3://key:{S}@bucket/train", "simplecache::s3://bucket/train"),
    (f"sqlite:///file:studies?mode=ro&key={S}", "sqlite:///file:studies?…"),
    (f"file:///data/train?token={S}", "file:///data/train?…"),
]
PLAIN = [
    "s3://bucket/a@2x/train", "https://host:8000/a@b/train", "sqlite:////home/a@b/study.db", "file:///data/a@b",
    "postgresql://db/studies", "https://[::1]:8080/train", "drawstream train data -o runs/a --lr 0.1", "a@b.org",
    "--features loss,entropy", "http://127.0.0.1:8000/ shows runs; Ctrl-C ends it", "memory://data/train",
]  # fmt: skip


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_what_is_shown_of_a_url(url, expected):
    assert shown(url) == expected
    assert shown(shown(url)) == expected


@pytest.mark.parametrize("url", [url for url, _ in URLS])
@pytest.mark.parametrize("text", ["{}", "cannot open {}: no", "cannot open '{}': no", "(URL({!r}),)", "--storage={}"])
def test_no_text_holds_a_secret(url, text):
    assert S not in shown(text.format(url))


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_none_is_left_alone(text):
    assert shown(text) == text


@pytest.mark.parametrize("url", [url for url, _ in URLS])
def test_a_secret_alone_in_the_text_of_another_package(url, monkeypatch):
    text = f"Port could not be cast to integer value as '{S}'; password={S}"
    assert S not in shown(text, url)
    monkeypatch.setattr(sys, "argv", ["drawstream", "search", "swift", f"--storage={url}"])
    assert S not in shown(text)


def test_a_password_with_a_space_that_the_command_line_gave(monkeypatch):
    url = f"postgresql://user:my {S}@db/studies"
    monkeypatch.setattr(sys, "argv", ["drawstream", "--storage", url])
    assert S not in shown(f"cannot open {url}")


def test_pairs_outside_of_urls():
    assert shown(f"failed: host=db password={S} dbname=x") == "failed: host=db password=… dbname=x"


def test_values_at_any_depth():
    value = {"a": [1, None, f"x://u:{S}@h/b"], "b": {"c": (f"https://h/?sig={S}", 2.5)}, "plain": "s3://b/c"}
    found = without_secrets(value)
    assert S not in json.dumps(found)
    assert found["plain"] == "s3://b/c" and found["a"][:2] == [1, None] and found["b"]["c"][1] == 2.5


@given(st.text(st.characters(blacklist_categories=("Cs", "Z", "C")), max_size=12), st.text(max_size=3))
def test_any_password_without_space_is_hidden(more, tail):
    secret = f"{more}{S}{tail.strip()}".replace("://", "")
    secret = "".join(c for c in secret if c.isprintable() and not c.isspace())
    for scheme in ("postgresql", "mysql+pymysql", "redis"):
        assert S not in shown(f"cannot open {scheme}://user:{secret}@host/name: it is down")


def _label(text):
    with pytest.raises(ValueError, match="4096 bytes"):
        as_label(text, ".cls", text.encode())


PIECES = ["token-", "a", "a=", "token=a ", "a-token_", "http", "http://", "//", "…", "'s3://a@", "(x://?", "k-="]


@pytest.mark.parametrize(
    ("read", "piece"), [*((shown, piece) for piece in PIECES), (split_name, "a/"), (split_name, "_"), (_label, "1")]
)
def test_time_grows_with_the_length_of_a_text_alone(read, piece):
    def seconds(size):
        text, times = piece * (size // len(piece)) + "x", []
        for _ in range(3):
            begin = time.perf_counter()
            read(text)
            times.append(time.perf_counter() - begin)
        return min(times)

    assert seconds(200_000) < 10 * max(seconds(50_000), 0.005)  # 16 times and more where it grew with the square
