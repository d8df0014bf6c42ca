"""What mkdocs runs while it builds the site: API pages and two pages of the root.

Every public module of the package gets a page that mkdocstrings renders, so the API
cannot miss a module or name one that is gone. CONTRIBUTING.md and CHANGELOG.md are pages
of the site as well; their links are relative to the repository's root.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
ENTRY = "api/index.md"  # written by hand: where to start


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the API pages to the navigation, grouped by package."""
    groups: dict[str, list[dict[str, str]]] = {}
    for module in modules():
        package = ".".join(module.split(".")[:3]) if "." in module else module
        group = package if is_package(package) else ".".join(package.split(".")[:-1])
        label = module.removeprefix(f"{group}.") if module != group else "overview"
        groups.setdefault(group, []).append({label: page(module)})
    api = [ENTRY, *({group: pages} for group, pages in groups.items())]
    assert config.nav is not None
    config.nav.append({"API": api})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, source in ROOT_PAGES.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    for module in modules():
        text = f"# `{module}`\n\n::: {module}\n    options:\n      show_root_heading: false\n"
        files.append(File.generated(config, page(module), content=text))
    return files


def modules() -> list[str]:
    """Dotted names of the public modules, packages first."""
    paths = sorted(
        path.relative_to(ROOT).with_suffix("")
        for path in (ROOT / "picjax").rglob("*.py")
        if not path.stem.startswith("_") or path.stem == "__init__"
    )
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return sorted(names, key=lambda name: name.split("."))


def is_package(module: str) -> bool:
    """Whether a dotted name is a package."""
    return (ROOT / Path(*module.split("."))).is_dir()


def page(module: str) -> str:
    """The page of a module."""
    return f"api/{module}.md"
