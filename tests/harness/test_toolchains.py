"""A missing or broken tool chain of another language skips its tests, and never makes them hang."""

from contextlib import closing
from pathlib import Path

import pytest

from harness import toolchains
from harness.stack import wait_until


def program(folder: Path, name: str, script: str) -> None:
    """A command of this name that is found first."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which all commands are looked for, with a shell's own and no tool chain in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sleep").symlink_to("/bin/sleep")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_missing_tool_skips(commands: Path, tmp_path: Path) -> None:
    """Without Node or Go the test is skipped, and the reason says so."""
    with pytest.raises(pytest.skip.Exception, match="node is not installed"):
        toolchains.npm_install(tmp_path)
    with pytest.raises(pytest.skip.Exception, match="go is not installed"):
        toolchains.go_download(tmp_path)


def test_old_tool_skips(commands: Path, tmp_path: Path) -> None:
    """A tool chain that is too old, or that does not name its version, skips the test."""
    for says in ("go1.9.7", "1.21", ""):
        program(commands, "go", f"echo {says}")
        with pytest.raises(pytest.skip.Exception, match=r"go is older than 1\.22"):
            toolchains.need_go()
    for says in ("go1.22.0", "\\033[1mgo 2\\033[m"):
        program(commands, "go", f"printf '{says}'")
        toolchains.need_go()


def test_failing_install_skips(commands: Path, tmp_path: Path) -> None:
    """A registry that is out of reach skips the test, with the first line of the error as the reason."""
    program(commands, "go", 'test "$1" = env && echo go1.26.1 && exit; echo warning >&2; echo no route >&2; exit 1')
    with pytest.raises(pytest.skip.Exception, match="go mod failed: no route"):
        toolchains.go_download(tmp_path)


def test_hanging_install_skips(commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An install that hangs is ended with all it started, and skips the test."""
    monkeypatch.setattr(toolchains, "INSTALL_SECONDS", 0.5)
    child = tmp_path / "child"
    program(commands, "go", f'test "$1" = env && echo go1.26.1 && exit; sleep 1000 & echo $! > {child}; wait')
    with pytest.raises(pytest.skip.Exception, match="did not end within"):
        toolchains.go_download(tmp_path)
    if child.exists():  # on a machine so busy that half a second was not enough, nothing had been started
        pid = int(child.read_text())
        wait_until(lambda: not is_running(pid), "the install's child to be gone")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_folder_is_made_once_and_goes_with_its_last_user(tmp_path: Path) -> None:
    """A folder that one process made serves the others, and exists until the last of them is done."""
    tries = []

    def make(folder: Path) -> None:
        tries.append(folder)
        (folder / "file").touch()

    one, other = toolchains.SharedFolders(tmp_path), toolchains.SharedFolders(tmp_path)
    assert one.folder("some", make) == other.folder("some", make) == one.folder("some", make)
    one.close()
    assert (tmp_path / "some" / "file").exists()
    other.close()
    assert not (tmp_path / "some").exists()
    with closing(toolchains.SharedFolders(tmp_path)) as late:
        assert (late.folder("some", make) / "file").exists()
    assert len(tries) == 2


def test_folder_that_cannot_be_made_is_tried_once(tmp_path: Path) -> None:
    """If a tool is missing, every process skips its tests, and only the first one looks for the tool."""
    tries = []

    def lack(folder: Path) -> None:
        tries.append(folder)
        pytest.skip("nothing to make it with")

    for _ in range(2):
        with (
            closing(toolchains.SharedFolders(tmp_path)) as folders,
            pytest.raises(pytest.skip.Exception, match="nothing to make it with"),
        ):
            folders.folder("some", lack)
    assert len(tries) == 1


def test_half_made_folder_is_made_anew(tmp_path: Path) -> None:
    """A folder is not used if making it failed."""

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError("half made")

    with closing(toolchains.SharedFolders(tmp_path)) as folders:
        with pytest.raises(ValueError, match="half made"):
            folders.folder("some", fail)
        folder = folders.folder("some", lambda folder: (folder / "whole").touch())
        assert [path.name for path in folder.iterdir()] == ["whole"]
