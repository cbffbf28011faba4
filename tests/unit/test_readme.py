"""What the README quotes is what is there, and what the documents list is complete."""

import re
from pathlib import Path

from duolink.protocol.codes import CloseCode, ErrorCode, LossReason
from duolink.server.metrics import Counts, Gauges, make_registry, render

ROOT = Path(__file__).parents[2]


def test_the_page_in_the_readme_is_the_example():
    readme = (ROOT / "README.md").read_text()
    quoted = readme.partition("```html\n")[2].partition("```\n")[0]
    assert quoted == (ROOT / "examples" / "page.html").read_text()


def test_every_code_and_loss_reason_is_in_the_protocol():
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    words = set(re.findall(r"[a-z_]+|\d{4}", protocol))
    assert {str(code.value) for code in [*CloseCode, *ErrorCode, *LossReason]} <= words


def test_every_metric_is_documented():
    documented = set(re.findall(r"`(duolink_[a-z_]+)", (ROOT / "docs" / "metrics.md").read_text()))
    _, body = render(make_registry(Counts(), Gauges))
    names = set(re.findall(r"^# TYPE (duolink_[a-z_]+) ", body.decode(), re.MULTILINE))
    assert names == documented
