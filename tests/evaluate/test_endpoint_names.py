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
        ("a=http://user:secret@h/v1", "is not the http"),
        ("a=http://h/v1,modle=x", "'modle' is not an option"),
        ("a=http://h/v1,model=", "'model' is not an option of an endpoint, or is empty"),
        ("a=http://h/v1,key_env=NOT_THERE", "the environment has no NOT_THERE"),
    ],
)
def test_other_texts_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ExportError, match=problem):
        parse_endpoint(text)
