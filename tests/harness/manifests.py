"""Reads the files for Kubernetes and Compose as their programs do, so that a test can start what these would start."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from harness.servers import DEPLOY_FILES

KUBERNETES: Final = DEPLOY_FILES / "kubernetes"
COMPOSE: Final = DEPLOY_FILES / "compose.yml"

Object = dict[str, Any]


class Pod(NamedTuple):
    """The command, variables and files of a container.

    Attributes:
        args: arguments of ``token-worker``.
        environment: its variables, those of the image among them.
        settings: contents of files with settings, by path.
        files: where each file comes from, by path: ``secret/NAME/KEY``, ``config/KEY``, ``token/AUDIENCE``.
        user: id of its user.
    """

    args: list[str]
    environment: dict[str, str]
    settings: dict[str, str]
    files: dict[str, str]
    user: int


class Manifests:
    """The objects for Kubernetes, from the folder that ``kubectl apply -k`` takes."""

    def __init__(self, folder: Path = KUBERNETES) -> None:
        self._folder = folder
        kustomization = yaml.safe_load((folder / "kustomization.yml").read_text())
        self.objects = [each for name in kustomization["resources"] for each in _load(folder / name)]
        self.secret_examples = _load(folder / "secrets.example.yml")
        self._config_maps = {each["name"]: each["files"] for each in kustomization["configMapGenerator"]}

    def of_kind(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def container(self, deployment: str) -> Object:
        """Return the only container of a Deployment."""
        [container] = self._spec(deployment)["containers"]
        return dict(container)

    def pod(self, deployment: str) -> Pod:
        """Return what the container of a Deployment gets."""
        container, spec = self.container(deployment), self._spec(deployment)
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        files = {f"{mounts[volume['name']]}/{name}": source
                 for volume in spec["volumes"] for name, source in self._content(volume)}  # fmt: skip
        settings = {path: (self._folder / source.removeprefix("config/")).read_text()
                    for path, source in files.items() if source.startswith("config/")}  # fmt: skip
        variables = {each["name"]: each["value"] for each in container.get("env", [])}
        user = spec["securityContext"]["runAsUser"]
        return Pod(container["args"], {**image_environment(), **variables}, settings, files, user)

    def _spec(self, deployment: str) -> Object:
        [found] = [each for each in self.of_kind("Deployment") if each["metadata"]["name"] == deployment]
        return dict(found["spec"]["template"]["spec"])

    def _content(self, volume: Object) -> list[tuple[str, str]]:
        """Return name and source of each file of a volume."""
        if "secret" in volume:
            name = volume["secret"]["secretName"]
            [secret] = [each for each in self.secret_examples if each["metadata"]["name"] == name]
            return [(key, f"secret/{name}/{key}") for key in secret["stringData"]]
        if "projected" in volume:
            tokens = [source["serviceAccountToken"] for source in volume["projected"]["sources"]]
            return [(token["path"], f"token/{token['audience']}") for token in tokens]
        config_map = volume["configMap"]
        known = self._config_maps.get(config_map["name"], [])
        return [(item["path"], f"config/{item['key']}") for item in config_map.get("items", []) if item["key"] in known]


def compose_services() -> dict[str, Object]:
    """Return the services of the Compose file that run our image."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    return {name: service for name, service in services.items() if service["image"] == "token-worker"}


def service_pod(service: Object) -> Pod:
    """Return what the container of a service of the Compose file gets."""
    files = {f"/run/secrets/{name}": f"secret/{name}" for name in service["secrets"]}
    _, args = _image_command()
    environment = {**image_environment(), **service["environment"]}
    return Pod(service.get("command", args), environment, {}, files, image_user())


def image_environment() -> dict[str, str]:
    """Return the variables of the image, except the path of its programs."""
    [line] = re.findall(r"^ENV (.+)$", _dockerfile(), re.MULTILINE)
    variables: Mapping[str, str] = dict(each.split("=", 1) for each in shlex.split(line))
    return {name: value for name, value in variables.items() if name != "PATH"}


def image_user() -> int:
    """Return the id of the user of the image."""
    [user] = re.findall(r"^USER (\d+):\d+$", _dockerfile(), re.MULTILINE)
    return int(user)


def _image_command() -> tuple[list[str], list[str]]:
    """Return the program of the image and its arguments."""
    found = [re.findall(rf"^{word} (.+)$", _dockerfile(), re.MULTILINE)[0] for word in ("ENTRYPOINT", "CMD")]
    program, args = map(yaml.safe_load, found)
    return program, args


def _dockerfile() -> str:
    return (DEPLOY_FILES / "Dockerfile").read_text()


def _load(file: Path) -> list[Object]:
    return list(yaml.safe_load_all(file.read_text()))
