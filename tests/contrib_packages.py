"""The packages of `contrib/`, as if they were installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

CONTRIB = Path(__file__).parents[1] / "contrib"


def installed(name: str, site: Path) -> Path:
    """Leave in a folder of packages what installing one of `contrib/` leaves, and return the folder."""
    package = CONTRIB / name
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n")
    points = "".join(f"{point} = {value}\n" for point, value in project["entry-points"]["hfx"].items())
    (info / "entry_points.txt").write_text(f"[hfx]\n{points}")
    [source] = (package / "src").iterdir()
    (site / source.name).symlink_to(source)
    return site
