"""HTML of a model as it may stand in a file: balanced, without what acts or loads."""

from __future__ import annotations

import pytest

from qvl_runtime.read.markup import safe_markup


@pytest.mark.parametrize(
    "text",
    [
        '<h1>Ü &amp; &lt;b&gt;</h1>\n<p data-bbox="1 2 3 4">a<br>b</p>',
        '<table class="t"><tr><td colspan="2">1</td></tr></table>',
        '<a href="https://example.org/?a=1&amp;b=2">link</a>',
        '<div style="color: red"><img data-bbox="1 2"><input type="checkbox" checked=""></div>',
    ],
)
def test_documents_stay_as_they_are(text: str) -> None:
    assert safe_markup(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<!DOCTYPE html><html><head><title>t</title></head><body class=x><p>a</p></body></html>", "<p>a</p>"),
        ('<meta http-equiv="refresh" content="0;url=http://x"><base href="http://x"><p>a</p>', "<p>a</p>"),
        ('<form action="http://x"><input formaction="http://x"></form>', "<input>"),
        ('<link rel="prefetch" href="http://x"><iframe src="http://x"></iframe>b', "b"),
        ("<script>alert(1)</script>a<style>p {}</style>", "a"),
        ('<a href="javascript:x()" onclick="y()" ping="http://x">a</a>', "<a>a</a>"),
        ('<p title="&quot;&gt;<script>">a', '<p title="&quot;&gt;&lt;script&gt;">a</p>'),
        ("<div><p>a", "<div><p>a</p></div>"),
        ("a</div></section>b", "ab"),
        ("<p>a<table><tr><td>b</p>c</td></tr></table>", "<p>a<table><tr><td>bc</td></tr></table></p>"),
        ("<b><i>a</b>b", "<b><i>a</i></b>b"),
        ("1 < 2 & 3", "1 &lt; 2 &amp; 3"),
    ],
)
def test_what_acts_is_left_out_and_what_is_open_is_closed(text: str, expected: str) -> None:
    assert safe_markup(text) == expected
