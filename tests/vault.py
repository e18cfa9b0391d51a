"""A plugin that does with its secrets what it should not, and a database that tells its password."""

from __future__ import annotations

from pathlib import Path

from toy_packages import toy_package

SOURCE = '''"""Talks too much."""

import logging
import os
import sys
import threading
import warnings
from base64 import b64encode

from hfx import Plugin, Problem, Secret, hookimpl, reveal
from pydantic import BaseModel, SecretStr


LOOSE = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_ACCESS_KEY_ID",
         "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN", "http_proxy", "DATABASE_URL")


class Inner(BaseModel):
    key: SecretStr


class Toy(Plugin):
    """Holds secrets and tells them to everybody."""

    token: SecretStr | None = None
    """A secret of pydantic's type."""
    more: dict[str, SecretStr] = {}
    """Secrets by name."""
    inner: Inner | None = None
    """One inside."""
    reference: Secret | None = None
    """One of hfx's type."""
    proxy: str | None = None
    """An address."""
    fail: str = ""
    """The hook that raises, and the step."""

    def told(self):
        known = [self.token.get_secret_value(), self.reference and reveal(self.reference)]
        known += [secret.get_secret_value() for secret in self.more.values()]
        known += [self.inner.key.get_secret_value()] if self.inner else []
        return [secret for secret in known if secret]

    def tell(self, where):
        if self.token is None:
            return
        secrets = self.told()
        if self.fail == where:  # such as `step_end 2`
            basic = b64encode(secrets[0].encode()).decode()
            raise RuntimeError(f"{where}: {self!r} {secrets} Authorization: Basic {basic} "
                               f"{[os.environ[name] for name in LOOSE]} "
                               f"https://bucket/rows?X-Amz-Signature={'planted-query-f00dface'}")
        print(where, self, secrets, {name: os.environ[name] for name in LOOSE})
        print(where, *secrets, file=sys.stderr)
        logging.getLogger("vault").warning("%s: %s", where, secrets)
        warnings.warn(f"{where} {secrets[0]}")
        try:
            raise ValueError(secrets)
        except ValueError:
            logging.getLogger("vault").exception("it went wrong with %s", secrets[-1])

    @hookimpl
    def hfx_check(self, run):
        if self.token is not None:
            yield Problem(f"check {self.told()}", fatal=False)

    @hookimpl
    def hfx_step_end(self, run, metrics):
        self.tell(f"step_end {run.step}")
        if self.token is not None:
            run.state["vault"]["seen"] = {"all": self.told(), self.told()[0]: 1}
            metrics["note"] = str(self.told())
            thread = threading.Thread(target=lambda: [][self.token.get_secret_value()])
            thread.start()
            thread.join()

    @hookimpl
    def hfx_saved(self, run, path):
        self.tell(f"saved {run.step}")
'''
DATABASE = """class Error(Exception):
    pass


class OperationalError(Error):
    pass


def connect(*address, **options):
    raise Error(f"password authentication failed for {address} {options}")
"""


def install(folder: Path) -> Path:
    """Install both into a folder for `sys.path`."""
    folder.mkdir()
    toy_package(folder, "acme-vault", {"vault": SOURCE})
    (folder / "toydb.py").write_text(DATABASE)
    return folder
