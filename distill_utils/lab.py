"""``make lab``: JupyterLab on this machine alone, with the project's kernel, opened at the notebooks and a page about them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from jupyterlab_server.workspaces_handler import WorkspacesManager

from distill_utils.artefacts import write_json
from distill_utils.study import ROOT

#: JupyterLab's settings here, and what it remembers of its tabs; deleting the folder brings the first look back.
FOLDER = ROOT / "runs" / ".jupyterlab"
#: Nothing is asked of the network, and nobody asked about it.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
WORKSPACE = "study"
README = "notebooks/README.md"


def first_look() -> dict:
    """The workspace that JupyterLab opens with: the folder of notebooks at the left, their README as a page."""
    page = f"markdownviewer-widget:{README}"
    layout = {
        "main": {
            "dock": {"type": "tab-area", "currentIndex": 0, "widgets": [page]},
            "current": page,
        },
        "left": {"collapsed": False, "visible": True, "current": "filebrowser", "widgets": ["filebrowser"]},
        "right": {"collapsed": True, "visible": True, "widgets": []},
    }
    data = {
        "layout-restorer:data": layout,
        "file-browser-filebrowser:cwd": {"path": "notebooks"},
        page: {"data": {"path": README, "factory": "Markdown Preview"}},
    }
    return {"data": data, "metadata": {"id": WORKSPACE}}


def command(options: argparse.Namespace) -> list[str]:
    """The command line; what could open it to the network cannot be asked for."""
    ours = {
        "ServerApp.port": options.port,
        "ServerApp.open_browser": not options.no_browser,
        "ServerApp.allow_root": options.allow_root,
        "ServerApp.root_dir": ROOT,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.allow_remote_access": False,
        "KernelManager.ip": "127.0.0.1",
        "LabApp.workspaces_dir": FOLDER,
        "LabApp.app_settings_dir": FOLDER,
        "LabApp.default_url": f"/lab/workspaces/{WORKSPACE}",
        "LabApp.extension_manager": "readonly",
    }
    return [sys.executable, "-m", "jupyterlab", *(f"--{key}={value}" for key, value in ours.items())]


def surroundings() -> dict[str, str]:
    """The environment, without settings of the user's that might do without a token: JupyterLab then makes one."""
    own = {"JUPYTER_CONFIG_DIR": str(FOLDER / "config")}
    return {name: value for name, value in os.environ.items() if name != "JUPYTER_TOKEN"} | own


def main(arguments: Sequence[str] | None = None) -> None:
    """Open JupyterLab in place of this process; it stops with Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="make lab", description="Open JupyterLab on this machine.", allow_abbrev=False
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--port", type=int, default=8888, help="the next free one, if it is taken")
    parser.add_argument("--allow-root", action="store_true", help="root may run it")
    options = parser.parse_args(arguments)
    write_json(FOLDER / "overrides.json", SETTINGS)
    if not any(FOLDER.glob(f"{WORKSPACE}-*.jupyterlab-workspace")):
        WorkspacesManager(str(FOLDER)).save(WORKSPACE, json.dumps(first_look()))
    os.chdir(ROOT)
    os.execve(sys.executable, command(options), surroundings())


if __name__ == "__main__":
    main()
