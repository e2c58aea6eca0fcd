"""What a package index shows, and what the site needs in a browser without a network."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ADDRESSES = runpy.run_path(str(DOCS / "addresses.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOUND_BY = ["gradient accumulation", "micro-batch", "SAM", "GAN", "physics-informed", "soft batch"]
HERE, THERE = "https://example.org/here", "https://example.org/there"


def metadata_of(root):
    command = [sys.executable, "-m", "hatchling", "metadata"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def metadata():
    return metadata_of(ROOT)


def test_the_addresses_are_set_in_one_place(tmp_path):
    """Set in a copy of pyproject.toml, they reach the metadata, the README's links and the site."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = re.sub(r'(?m)^repository = ".*"$', f'repository = "{HERE}/"', text)
    text = re.sub(r'(?m)^documentation = ".*"$', f'documentation = "{THERE}"', text)
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    for name in ("README.md", "LICENSE", "hatch_build.py", "docs", "keras_cool"):
        (tmp_path / name).symlink_to(ROOT / name)
    metadata = metadata_of(tmp_path)
    assert metadata["urls"]["Repository"] == HERE
    assert metadata["urls"]["Documentation"] == THERE
    links = re.findall(r"\]\(([^)\s]+)\)", metadata["readme"]["text"])
    assert f"{HERE}/blob/main/docs/callbacks.md" in links
    assert all(link.startswith(("https://", "#")) for link in links)

    class Config:
        config_file_path = str(tmp_path / "mkdocs.yml")

    config = ADDRESSES["on_config"](Config())
    assert (config.repo_url, config.site_url) == (HERE, f"{THERE}/")


def test_no_address_is_written_anywhere_else(metadata):
    repository, documentation = ADDRESSES["read_addresses"](ROOT)
    urls = ADDRESSES["project_urls"](repository, documentation)
    assert metadata.get("urls", {}) == urls
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not re.search(r"(?m)^(site_url|repo_url):", site)


def test_a_package_index_can_show_the_readme(metadata):
    """It knows neither relative links, nor footnotes, formulas or the marks of mkdocs."""
    text = metadata["readme"]["text"]
    assert metadata["readme"]["content-type"] == "text/markdown"
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert link.startswith(("https://", "#")), link
    for mark in ("[^", r"\(", r"\[", "$$", "--8<--", "<!--", ":::", "!!!"):
        assert mark not in text, mark


def test_links_within_the_readme_lead_to_a_heading():
    headings = [re.sub(r"[^\w\- ]", "", h) for h in re.findall(r"(?m)^#+ (.+)$", README)]
    anchors = {h.lower().replace(" ", "-") for h in headings}
    for link in re.findall(r"\]\(#([^)\s]+)\)", README):
        assert link in anchors, link


@pytest.mark.parametrize("word", FOUND_BY)
def test_it_is_found_by_the_words_that_people_use(word, metadata):
    keywords = " ".join(metadata["keywords"])
    pages = [p.read_text(encoding="utf-8") for p in DOCS.glob("*.md")]
    for text in (keywords, README, " ".join(pages)):
        assert word.lower() in " ".join(text.split()).lower()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda p: p.name
)
def test_the_first_soft_batch_of_a_page_is_explained(page):
    text = " ".join(page.read_text(encoding="utf-8").split())
    first = re.search("soft batch", text, re.IGNORECASE)
    if first is not None:
        around = text[max(0, first.start() - 200) : first.end() + 200].lower()
        assert "gradient accumulation" in around


def test_nothing_tells_to_install_what_an_index_does_not_have():
    """Until it is released, `pip install keras-cool` finds nothing."""
    for file in [*(ROOT / "keras_cool").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        assert not re.search(r"pip install\W+keras-cool", file.read_text(encoding="utf-8")), file


def test_the_site_asks_no_other_server():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in site
    assert "://" not in site
    for style in DOCS.rglob("*.css"):
        for url in re.findall(r"url\(([^)]+)\)", style.read_text(encoding="utf-8")):
            assert (style.parent / url).is_file(), f"{style.name}: {url}"
    for path in re.findall(r"[\w/.-]+\.(?:css|js)\b", site):
        assert (DOCS / path).is_file(), path
    for library in ("katex", "iframe-worker"):
        assert (DOCS / "vendored" / library / "LICENSE.txt").is_file()
