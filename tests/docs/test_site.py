"""The site builds, leads nowhere that is not there, and shows its pages without another host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import modelworks
from mocks import ROOT

ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe)[^>]+src="?https?:|<link[^>]+rel="?stylesheet"?[^>]+href="?https?:|@import"""
)


def build(into, source=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(into)],
        cwd=source,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_docs_is_in_the_site_and_every_link_leads_somewhere(site):
    sources = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.parent.relative_to(site) for path in site.rglob("index.html")}
    assert {path.parent if path.name == "index" else path for path in sources} <= built


def test_a_link_to_an_anchor_that_is_not_there_fails_the_build(tmp_path):
    for name in ("docs", "mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    with (tmp_path / "docs" / "quickstart.md").open("a") as page:
        page.write("\n[nowhere](guides/gates.md#no-such-heading)\n")
    done = build(tmp_path / "site", source=tmp_path)
    assert done.returncode != 0
    assert "no-such-heading" in done.stderr


def test_a_page_is_shown_without_asking_another_host(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert [str(path) for path in pages if ELSEWHERE.search(path.read_text())] == []


def test_links_of_the_pages_beside_the_site_lead_to_files():
    pages = [ROOT / "README.md", *(ROOT / "examples").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert len(links) > len(pages)
    assert [(str(page), link) for page, link in links if not (page.parent / link).exists()] == []


def test_the_readme_names_every_component_and_leads_to_every_guide():
    text = (ROOT / "README.md").read_text()
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    guides = [page for part in nav for each in part.get("Guides", []) for page in each.values()]
    assert len(guides) > len(modelworks.__all__)
    assert [name for name in modelworks.__all__ if f"`{name}`" not in text] == []
    assert [page for page in guides if f"(docs/{page})" not in text] == []


def test_every_decision_has_a_number_a_date_and_a_status_and_is_listed():
    index = (ROOT / "docs/adr/index.md").read_text()
    for number, path in enumerate(sorted((ROOT / "docs/adr").glob("0*.md")), start=1):
        title, _, told, *_ = path.read_text().splitlines()
        date, status = re.fullmatch(r"(\d{4}-\d\d-\d\d), (accepted|superseded by .+)", told).groups()
        assert title.startswith(f"# {number}. ")
        assert f"| {number} | [{title.partition('. ')[2]}]({path.name}) | {date} | {status} |" in index
