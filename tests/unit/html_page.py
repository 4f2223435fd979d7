"""Read a page as a reader sees it, and refuse one that needs anything but itself."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "line", "rect", "circle", "path"}


class Page(HTMLParser):
    """Check that tags nest and nothing is loaded from elsewhere, and keep what a reader sees."""

    def __init__(self, text: str):
        super().__init__()
        assert not re.search(r"<script|https?://|url\(|src=|@import|<link", text), "the page must need nothing but itself"
        assert "nan" not in re.findall(r'="(nan|[^"]*\bnan\b[^"]*)"', text)
        self.open, self.text, self.tags = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())
