"""The addresses of the project, from the one place where they are set: pyproject.toml.

    [tool.keras-cool]
    repository = ""
    documentation = ""

Empty means: not settled. From them follow `[project.urls]` and the links of the README on a package
index, by hatch_build.py, and `site_url` and `repo_url` of the site, by the hook of mkdocs below.
"""

import re
import tomllib
from pathlib import Path

_COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
_RELATIVE_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|#)([^)\s]+)\)")


def read_addresses(root):
    """The addresses of the repository and of the documentation, `""` where not settled."""
    with (Path(root) / "pyproject.toml").open("rb") as file:
        ours = tomllib.load(file)["tool"]["keras-cool"]
    return ours["repository"].rstrip("/"), ours["documentation"].rstrip("/")


def project_urls(repository, documentation):
    """The table `[project.urls]`."""
    urls = {"Documentation": documentation}
    if repository:
        urls |= {
            "Repository": repository,
            "Issues": f"{repository}/issues",
            "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        }
    return {name: url for name, url in urls.items() if url}


def readme_for_an_index(text, repository):
    """The README without comments, with links to files absolute, or as text without an address."""
    target = rf"[\1]({repository}/blob/main/\2)" if repository else r"\1"
    return _RELATIVE_LINK.sub(target, _COMMENT.sub("", text))


def on_config(config):
    """A hook of mkdocs: sets the addresses of the site."""
    repository, documentation = read_addresses(Path(config.config_file_path).parent)
    config.repo_url = repository or None
    config.site_url = f"{documentation}/" if documentation else ""
    return config
