"""A stand-in for a Kubernetes cluster: what ``kubectl`` was told, and the API that Vault asks about tokens.

``kubectl`` is a program that keeps what it is given below a folder, as files. The API answers reviews of tokens, and
takes a token that it made itself for its audience, once the service account exists.
"""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from harness.manifests import Manifests

KUBECTL: Final = '''#!{python}
"""The part of kubectl that the pages need; it keeps objects below {folder}."""
import pathlib, shutil, sys

folder = pathlib.Path({folder!r})
match sys.argv[1:]:
    case ["apply", "-k", source]:
        shutil.copytree(source, folder / "applied")
    case ["apply", "-f", source]:
        shutil.copy(source, folder)
    case ["create", "secret", "generic", name, "--namespace", "token-worker", *files]:
        (folder / "secret" / name).mkdir(parents=True)
        for file in files:
            option, key, path = file.split("=")
            assert option == "--from-file"
            shutil.copy(path, folder / "secret" / name / key)
    case other:
        sys.exit("kubectl does not know " + " ".join(other))
'''


class FakeKubernetes:
    """A context manager; while it is open, the API answers.

    Args:
        folder: an empty folder for what ``kubectl`` is given.
        namespace: namespace of the service account.
    """

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._namespace = namespace
        cluster = self

        class Api(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps(cluster._review(self.path, asked["spec"])).encode()
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def install_kubectl(self, tools: Path) -> None:
        """Put the program into a folder of programs."""
        program = tools / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, folder=str(self._folder)))
        program.chmod(0o755)

    @property
    def manifests(self) -> Manifests:
        """The objects that were applied."""
        return Manifests(self._folder / "applied")

    def content(self, source: str) -> str:
        """Return the content of a file that a pod mounts, by its source (see ``Pod``)."""
        kind, _, name = source.partition("/")
        if kind == "token":
            return self.token(name)
        file = self._folder / "applied" / name if kind == "config" else self._folder / source
        return file.read_text()

    def token(self, audience: str) -> str:
        """Return the token that the kubelet gives to a pod of the service account ``token-worker``."""
        account = {"name": "token-worker", "uid": "1"}
        claims = {
            "iss": "https://kubernetes.default.svc",
            "aud": [audience],
            "sub": f"system:serviceaccount:{self._namespace}:token-worker",
            "iat": 1,
            "nbf": 1,
            "exp": 4102444800,
            "kubernetes.io": {"namespace": self._namespace, "serviceaccount": account},
        }
        parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "kid": "1"}, claims)]
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in [*parts, b"signature"])

    def _review(self, path: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Answer a TokenReview."""
        [account] = self.manifests.of_kind("ServiceAccount")
        is_good = path == "/apis/authentication.k8s.io/v1/tokenreviews" and spec["token"] == self.token("vault")
        is_good &= spec["audiences"] == ["vault"]
        user = {"username": f"system:serviceaccount:{self._namespace}:{account['metadata']['name']}", "uid": "1"}
        status = {"authenticated": is_good, "audiences": ["vault"], "user": user if is_good else {}}
        return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
