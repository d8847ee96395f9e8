"""The bundle holds the intended files, is the same each time, and Flower accepts it."""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import get_fab_metadata
from flwr.cli.install import install_from_fab

from privacy.hosting.bundle import BUNDLE_FILES, bundle_bytes, bundle_hash

FOLDER = Path(str(files("coordinator") / "flower_app"))


def test_bundle_is_reproducible_and_its_hash_is_what_both_sides_print() -> None:
    first, second = bundle_bytes(), bundle_bytes()
    assert first == second
    assert hashlib.sha256(first).hexdigest() == bundle_hash()


def test_bundle_holds_the_intended_files_only() -> None:
    names = zipfile.ZipFile(io.BytesIO(bundle_bytes())).namelist()
    assert names == ["pyproject.toml", "LICENSE", "client_app.py", "server_app.py", ".info/CONTENT"]


def test_the_app_folder_holds_nothing_that_the_bundle_leaves_out() -> None:
    present = {path.name for path in FOLDER.iterdir() if path.name != "__pycache__"}
    assert present == set(BUNDLE_FILES)


def test_flower_installs_the_bundle_and_would_build_the_same_files(tmp_path: Path) -> None:
    data = bundle_bytes()
    installed = install_from_fab(data, install_dir=tmp_path, skip_prompt=True)
    assert (installed / "client_app.py").read_bytes() == (FOLDER / "client_app.py").read_bytes()
    assert get_fab_metadata(data) == ("fedtags/fedtags-relay", "1.0.0")
    ours = zipfile.ZipFile(io.BytesIO(data))
    flowers = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(FOLDER)))
    assert set(ours.namelist()) == set(flowers.namelist())
    for name in ("LICENSE", "client_app.py", "server_app.py"):
        assert ours.read(name) == flowers.read(name)


def test_the_shim_imports_flower_and_the_standard_library_only() -> None:
    tree = ast.parse((FOLDER / "client_app.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"flwr"}
