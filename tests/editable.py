"""What `pip install -e FOLDER` leaves, without the network that it needs for what builds packages.

python tests/editable.py install -e FOLDER     in the environment of this Python
"""

from __future__ import annotations

import sys
import sysconfig
import tomllib
from pathlib import Path


def install(package: Path, site: Path) -> None:
    """Leave a package's name, version and entry points in a folder of packages, and the way to its sources."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    info = site / f"{stem}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["hfx"].items())
    (info / "entry_points.txt").write_text(f"[hfx]\n{points}")
    (site / f"{stem}.pth").write_text(f"{(package / 'src').absolute()}\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["install", "-e", folder]:
            install(Path(folder), Path(sysconfig.get_path("purelib")))
        case words:
            raise SystemExit(f"a tutorial installs otherwise than by 'pip install -e FOLDER': {' '.join(words)}")
