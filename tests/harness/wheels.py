"""Packs what is installed here into wheels again, so that an installation without network can be tested."""

import base64
import hashlib
import re
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement


def pack(project: str, folder: Path) -> None:
    """Write the wheels of a project and of all that it needs, without extras, to a folder."""
    done: set[str] = set()
    waiting = [project]
    while waiting:
        name = waiting.pop()
        if _normal(name) not in done:
            done.add(_normal(name))
            found = distribution(name)
            _pack(found, folder)
            needed = map(Requirement, found.requires or [])
            waiting += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]


def _pack(found: Distribution, folder: Path) -> None:
    """Write one wheel: the files that stand in its record, and a new record."""
    tags = re.findall(r"^Tag: (.+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    python, abi, _ = tags[0].split("-")
    platforms = ".".join(tag.rpartition("-")[2] for tag in tags if tag.startswith(f"{python}-{abi}-"))
    wheel = folder / f"{_normal(found.name)}-{found.version}-{python}-{abi}-{platforms}.whl"
    record = []
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in found.files or []:
            if ".." in file.parts or file.suffix == ".pyc" or file.name in {"RECORD", "INSTALLER", "direct_url.json"}:
                continue
            content = Path(str(file.locate())).read_bytes()
            archive.writestr(str(file), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={digest},{len(content)}")
        [info] = {PurePosixPath(line.partition(",")[0]).parts[0] for line in record if ".dist-info/METADATA," in line}
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
