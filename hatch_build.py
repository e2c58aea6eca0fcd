"""What a package index shows: the addresses of the project, and the README with links that work."""

import runpy
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class IndexMetadata(MetadataHookInterface):
    """Fills in `urls` and `readme`, which pyproject.toml calls dynamic."""

    def update(self, metadata: dict) -> None:
        root = Path(self.root)
        addresses = runpy.run_path(str(root / "docs" / "addresses.py"))
        repository, documentation = addresses["read_addresses"](root)
        metadata["urls"] = addresses["project_urls"](repository, documentation)
        text = (root / "README.md").read_text(encoding="utf-8")
        readme = addresses["readme_for_an_index"](text, repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
