"""What the README quotes is what is there."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_in_the_readme_is_the_example():
    readme = (ROOT / "README.md").read_text()
    quoted = readme.partition("```html\n")[2].partition("```\n")[0]
    assert quoted == (ROOT / "examples" / "page.html").read_text()
