"""What `--endpoint` names."""

from __future__ import annotations

import pytest

from qvl_export.errors import ExportError
from qvl_export.evaluate.answers.endpoint_names import Endpoint, parse_endpoint


def test_a_server_has_a_name_a_url_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_KEY", "secret")
    assert parse_endpoint("llama=http://h:1/v1/") == Endpoint("llama", "http://h:1/v1")
    found = parse_endpoint("a b=https://h/v1,model=org/m=1,key_env=LLAMA_KEY")
    assert found == Endpoint("a b", "https://h/v1", "org/m=1", "LLAMA_KEY") and found.key() == "secret"
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://h/v1", "--endpoint has no name"),
        ("=http://h/v1", "--endpoint has no name"),
        ("a=", "is not the http"),
        ("a=h:80/v1", "is not the http"),
        ("a=file:///etc/passwd", "is not the http"),
        ("a=http://[::1/v1", "is not the http"),
        ("a=http://h:http/v1", "is not the http"),
        ("a=http://h:99999/v1", "is not the http"),
        ("a=http://user:secret@h/v1", "has a user or a password"),
        ("a=http://secret@h/v1", "has a user or a password"),
        ("a=http://h/v1?key=secret", "has a query or a fragment"),
        ("a=http://h/v1?", "has a query or a fragment"),
        ("a=http://h/v1#secret", "has a query or a fragment"),
        ("http://h/v1?key=secret", "--endpoint has no name"),
        ("a=http://h/v1,key_env=sk-secret", "key_env is not the name of a variable"),
        ("a=http://h/v1,key=secret", "'key' is not an option"),
        ("a=http://h/v1,modle=x", "'modle' is not an option"),
        ("a=http://h/v1,model=", "'model' is not an option of an endpoint, or is empty"),
        ("a=http://h/v1,key_env=NOT_THERE", "the environment has no NOT_THERE"),
    ],
)
def test_other_texts_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ExportError, match=problem) as failed:
        parse_endpoint(text)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("key", ["secret\r", "secret\n", " secret", "sec ret", "secret\u2026", "secret\x7f"])
def test_what_cannot_be_a_key_is_refused_without_showing_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_KEY", key)
    for read in (lambda: parse_endpoint("a=http://h/v1,key_env=LLAMA_KEY"), Endpoint("a", "", "", "LLAMA_KEY").key):
        with pytest.raises(ExportError, match="a: LLAMA_KEY has characters that no key has") as failed:
            read()
        assert "sec" not in str(failed.value)
