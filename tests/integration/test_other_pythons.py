"""Tokens do not depend on the Python that derives them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = """
import json, sys
from pathlib import Path

import msgspec

from token_worker.acra.owner import Owner
from token_worker.tokens.derivation import PLAIN, Deriver, Origin
from token_worker.tokens.formats import KINDS

vectors = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
for vector in vectors:
    form = vector["form"]
    if isinstance(form, str):
        form = PLAIN[form]
    else:
        kind = KINDS[form["kind"]]
        form = kind("any name", msgspec.convert(vector["parameters"], kind.parameters_type))
    key, value, token = (bytes.fromhex(vector[member]) for member in ("key", "value", "token"))
    origin = vector.get("origin")
    origin = Origin(origin[0].encode(), origin[1].encode(), origin[2]) if origin else None
    assert Deriver(key, Owner(vector["kind"], vector["id"])).token(form, value, vector["counter"], origin) == token
print(len(vectors))
"""


def other_pythons() -> dict[tuple[int, int], str]:
    """Return the interpreters of this machine, from 3.11 on, whose version is not that of the tests."""
    found: dict[tuple[int, int], str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(11, 20):
        candidates = [shutil.which(f"python3.{minor}"), *map(str, pyenv.glob(f"3.{minor}.*/bin/python3"))]
        for candidate in filter(None, candidates):
            version = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False).stdout
            if version.startswith(f"Python 3.{minor}."):
                found.setdefault((3, minor), candidate)
    found.pop(sys.version_info[:2], None)
    return found


@pytest.mark.parametrize("version", other_pythons() or [None], ids=str)
def test_vectors_on_another_python(version: tuple[int, int] | None, tmp_path: Path) -> None:
    """Each vector of the derivation, of every type and kind of format, is the same on every Python that is here."""
    if version is None:
        pytest.skip("this machine has no other Python from 3.11 on")
    packages = tmp_path / "packages"
    needed = ["msgspec", "cryptography", "-c", str(ROOT / "scripts" / "constraints.txt")]
    wanted = ["--python-version", ".".join(map(str, version)), "--only-binary", ":all:", "--target", str(packages)]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted, *needed]
    subprocess.run(pip, check=True)
    vectors = ROOT / "tests" / "vectors" / "derivation.json"
    done = subprocess.run(
        [other_pythons()[version], "-c", CHECK, vectors],
        env={"PYTHONPATH": f"{ROOT / 'worker'}{os.pathsep}{packages}", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(json.loads(vectors.read_text(encoding="utf-8")))
