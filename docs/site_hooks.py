"""For `make site`: what pages link to outside of docs/, such as a source file, becomes a part of the site.

On a checkout these links lead to the file itself. The site has no checkout beside it, so each such file is copied into
it, below source/: code as a page, Markdown rendered, anything else as it is. For `make site-live`, the home page shows
the classifier that is exported beside it. The theme's search gets the name that a screen reader announces, and a wide
table is scrolled by keyboard, too.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#:]+)")
"""The beginning of a link to a file: its target has no scheme. An anchor may follow."""
LANGUAGES = {".cpp": "cpp", ".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
"""What is shown as a page of code."""
IN_NAVIGATION = ("CHANGELOG.md",)
"""Files outside docs/ that the navigation names."""

CLASSIFIER_GOES_HERE = "<!-- the classifier, on a site that has it: make site-live -->"
CLASSIFIER = os.environ.get("DYNCONV_SITE_CLASSIFIER", "")
"""Where the site will have an export in the format `web`; empty if it will have none."""
FRAME = """<details class="classifier" markdown="0">
<summary>Or here, in your browser, with the same weights (10 MB to load; no image leaves the browser)</summary>
<iframe src="{page}" title="Classify an image in the browser" loading="lazy" allow="camera"></iframe>
</details>
"""

SEARCH = '<div class="md-search" data-md-component="search" role="dialog"'
"""The theme's search, which has no name."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that the pages link to, and those that these link to in turn."""
    pages = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    added, waiting = set(IN_NAVIGATION), list(IN_NAVIGATION)
    while pages or waiting:
        for origin, text in pages.items():
            new = {path for _, target in LINK.findall(text) if (path := _outside(target, origin))} - added
            added |= new
            waiting += sorted(new)
        pages = {path: (ROOT / path).read_text(encoding="utf-8") for path in waiting if path.endswith(".md")}
        for path in waiting:
            files.append(_file(path, config))
        waiting = []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links to files outside docs/ at their copies, and those of a copy to what they mean from there."""
    here = page.file.src_uri
    if page.meta.get("listing"):
        return markdown
    copied = here.startswith("source/")
    origin = here.removeprefix("source/") if copied else f"docs/{here}"

    def moved(link: re.Match[str]) -> str:
        before, target = link.groups()
        if path := _outside(target, origin):
            new = _copy(path)
        elif copied and (path := _path(target, origin)).startswith("docs/"):
            new = path.removeprefix("docs/")
        else:
            return link.group()
        return before + posixpath.relpath(new, posixpath.dirname(here) or ".")

    markdown = markdown.replace(CLASSIFIER_GOES_HERE, FRAME.format(page=CLASSIFIER) if CLASSIFIER else "")
    in_one_piece = re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", markdown)  # 0.561 ± 0.014, in a narrow column, too
    return LINK.sub(moved, in_one_piece)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets the keyboard reach each table, which scrolls where it is wider than the screen; see site.css."""
    return re.sub(r"<table>.*?</table>", r'<div class="scroll" tabindex="0">\g<0></div>', html, flags=re.DOTALL)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Names the search of a page."""
    return _with_named_search(output)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Names the search of 404.html, which is made of no Markdown."""
    return _with_named_search(output_content)


def _with_named_search(page: str) -> str:
    return page.replace(SEARCH, f'{SEARCH} aria-label="Search"')


def _path(target: str, origin: str) -> str:
    """The path, from the root of the repository, of what a file there links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _outside(target: str, origin: str) -> str:
    """That path if it is of a file outside docs/, else empty; mkdocs itself reports the links that lead nowhere."""
    path = _path(target, origin)
    return path if not path.startswith(("docs/", "..")) and (ROOT / path).is_file() else ""


def _copy(path: str) -> str:
    """Where the sources of the site have a file of the repository."""
    return f"source/{path}.md" if Path(path).suffix in LANGUAGES else f"source/{path}"


def _file(path: str, config: MkDocsConfig) -> File:
    language = LANGUAGES.get(Path(path).suffix)
    if not language:
        return File.generated(config, _copy(path), abs_src_path=str(ROOT / path))
    head = "---\nlisting: true\nhide: [toc]\nsearch: {exclude: true}\n---\n"
    code = (ROOT / path).read_text(encoding="utf-8")
    return File.generated(config, _copy(path), content=f"{head}\n# {path}\n\n`````{language}\n{code}\n`````\n")
