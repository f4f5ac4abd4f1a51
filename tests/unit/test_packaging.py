"""What a newcomer reads and runs agrees with the code: settings, endpoints, images, pins."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from brokers import VERSITYGW
from server import base_settings
from whisperx_api_server.config import Settings, load_settings, variables

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

ROOT = Path(__file__).parents[2]
EXAMPLE_LINE = re.compile(r"#([A-Z_]+)=(.*)")
DOCUMENTED_ENDPOINT = re.compile(r"`(GET|POST|DELETE) (/[^`?\s]*)")


def documentation() -> str:
    """README and every page of docs/."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def shape(path: str) -> str:
    """A path without the names of its parameters."""
    return re.sub(r"\{[^}]*\}", "{}", path)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, _ in variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_documents_of_settings_are_those_that_make_docs_writes() -> None:
    generated = runpy.run_path(str(ROOT / "tools" / "generate_docs.py"))["documents"]()
    for path, text in generated.items():
        assert path.read_text(encoding="utf-8") == text, f"run `make docs`: {path.name} differs"


def test_each_setting_has_a_description_of_one_line() -> None:
    for name, field in variables():
        assert field.description, name
        assert re.fullmatch(r"[^|\n]+\.", field.description), name


@pytest.mark.usefixtures("no_settings")
def test_the_example_file_gives_the_defaults() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = [m[0][1:] for m in map(EXAMPLE_LINE.fullmatch, text.splitlines()) if m]
    Path(".env").write_text("\n".join(lines), encoding="utf-8")
    assert load_settings() == Settings(_env_file=None)


@pytest.mark.usefixtures("no_settings")
def test_every_endpoint_is_documented() -> None:
    from whisperx_api_server.main import create_app

    paths = create_app(Settings()).openapi()["paths"]
    served = {(method.upper(), shape(path)) for path in paths for method in paths[path]}
    assert served
    found = DOCUMENTED_ENDPOINT.findall(documentation())
    documented = {(method, shape(path)) for method, path in found}
    assert served - documented == set(), "give each as `METHOD /path` in README.md or docs/"
    assert documented - served == set(), "documented, but not served"


@needs_make
def test_make_serve_has_the_settings_of_the_tests(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    commands = run_in(tmp_path, "make", "--dry-run", "serve")
    (settings,) = re.findall(r"exec env (.*) +\\\n", commands)
    printed = run_in(tmp_path, "sh", "-c", f"env -i {settings} env")
    made = dict(line.split("=", 1) for line in printed.splitlines())
    assert made["WHISPER__COMPUTE_TYPE"] == "auto"
    assert made.items() <= base_settings(tmp_path).items()


@needs_make
def test_make_goes_on_without_the_weights_if_the_registry_lacks_them(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    uv = tmp_path / ".venv" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(
        '#!/bin/sh\necho "$*" >> uv.log\n'
        'case "$*" in *weights*) echo "no solution found" >&2; exit 1;; esac\n'
    )
    uv.chmod(0o755)

    made = subprocess.run(
        ["make", ".venv/.installed/embedded"], cwd=tmp_path, capture_output=True, text=True
    )

    assert made.returncode == 0, made.stderr
    assert [line.partition(":")[0] for line in made.stderr.splitlines()] == [
        "the weights of Whisper base cannot be installed"
    ]
    assert ".[embedded]" in (tmp_path / "uv.log").read_text(encoding="utf-8").splitlines()[0]


def run_in(directory: Path, *command: str) -> str:
    """What a command prints, without this process's settings."""
    return subprocess.run(
        command,
        cwd=directory,
        env={"PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_a_bare_compose_up_starts_nothing(compose: dict[str, Any]) -> None:
    assert {name: service["profiles"] for name, service in compose["services"].items()} == {
        "cpu": ["cpu"],
        "cuda": ["cuda"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


SERVERS = ("cpu", "cuda")


def test_only_the_cuda_service_reserves_a_gpu(compose: dict[str, Any]) -> None:
    devices = compose["services"]["cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in compose["services"]["cpu"]


def test_compose_outlasts_the_grace_of_accepted_requests(compose: dict[str, Any]) -> None:
    for service in map(compose["services"].__getitem__, SERVERS):
        assert int(service["stop_grace_period"].removesuffix("s")) > Settings().shutdown_grace


@pytest.fixture
def kafka_compose() -> dict[str, Any]:
    """The services of compose-kafka.yaml but for those that it shares with compose.yaml."""
    text = (ROOT / "compose-kafka.yaml").read_text(encoding="utf-8")
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return {name: each for name, each in services.items() if "extends" not in each}


def test_workers_start_by_profile_and_scale(kafka_compose: dict[str, Any]) -> None:
    profiles = {name: each.get("profiles") for name, each in kafka_compose.items()}
    assert {name: each for name, each in profiles.items() if each} == {
        "worker-cpu": ["cpu"],
        "worker-cuda": ["cuda"],
    }
    for name in ("worker-cpu", "worker-cuda"):
        assert "ports" not in kafka_compose[name]
        assert "container_name" not in kafka_compose[name]
        command = kafka_compose[name]["command"]
        assert command[0] == "worker"
        port = command[command.index("--port") + 1]  # whatever WORKER__PORT is
        assert f":{port}/ready" in str(kafka_compose[name]["healthcheck"]["test"])
        prometheus = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
        assert f"port: {port}\n" in prometheus


def test_workers_of_compose_share_the_gpus_and_their_locks(kafka_compose: dict[str, Any]) -> None:
    worker = kafka_compose["worker-cuda"]
    devices = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    locks = worker["environment"]["WORKER__GPU_LOCKS"]
    assert f"gpus:{locks}" in worker["volumes"]
    # A new volume belongs to the user of the image only if the image has the directory.
    made = [value for name, value in dockerfile("Dockerfile.cuda") if name == "RUN"]
    assert any(f" {locks}" in value for value in made)
    assert set(kafka_compose["worker-cpu"]["volumes"]) <= set(worker["volumes"])


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"S3__ACCESS_KEY_ID": "id", "S3__SECRET_ACCESS_KEY": "secret"}, "id secret"),
        ({"MINIO_ROOT_USER": "root", "MINIO_ROOT_PASSWORD": "pass"}, "root pass"),
        (
            {
                "S3__ACCESS_KEY_ID": "id",
                "S3__SECRET_ACCESS_KEY": "secret",
                "MINIO_ROOT_USER": "root",
                "MINIO_ROOT_PASSWORD": "pass",
            },
            "id secret",
        ),
        ({"S3__ACCESS_KEY_ID": "", "MINIO_ROOT_USER": "root"}, "S3__SECRET_ACCESS_KEY in .env"),
        ({}, "S3__ACCESS_KEY_ID in .env"),
    ],
)
def test_the_key_of_the_store_has_two_names(
    kafka_compose: dict[str, Any], given: dict[str, str], key: str
) -> None:
    # Compose expands variables as a shell does.
    environment = kafka_compose["api"]["environment"]
    names = ("S3__ACCESS_KEY_ID", "S3__SECRET_ACCESS_KEY")
    expansion = " ".join(environment[name] for name in names)
    printed = subprocess.run(
        ["sh", "-c", f'printf %s "{expansion}"'], env=given, capture_output=True, text=True
    )
    assert key in (printed.stderr if printed.returncode else printed.stdout)


def test_all_processes_of_compose_have_one_cluster(kafka_compose: dict[str, Any]) -> None:
    processes = [kafka_compose[name] for name in ("api", "worker-cpu", "worker-cuda")]
    own = {"WORKER__GPU_LOCKS": "/gpus"}
    assert [each["environment"] for each in processes[:2]] == [processes[0]["environment"]] * 2
    assert processes[2]["environment"] == processes[0]["environment"] | own
    known = {name for name, _ in variables()}
    assert set(processes[0]["environment"]) <= known
    for each in processes:
        assert set(each["depends_on"]) == {"kafka", "s3"}
        assert int(each["stop_grace_period"].removesuffix("s")) > Settings().shutdown_grace
    for service in kafka_compose.values():
        assert "healthcheck" in service
    for image in ("Dockerfile.cpu", "Dockerfile.cuda"):
        assert "--extra kafka" in (ROOT / image).read_text(encoding="utf-8")


def test_the_store_of_compose_is_the_one_that_the_tests_run(kafka_compose: dict[str, Any]) -> None:
    store, process = kafka_compose["s3"], kafka_compose["api"]
    image, _, version = store["image"].removesuffix("}").rpartition(":v")
    assert image.endswith("/versitygw")
    assert VERSITYGW.parent.name == f"versitygw-{version}"
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        assert store["environment"][f"ROOT_{name}"] == process["environment"][f"S3__{name}"]


def test_compose_keeps_models_and_results_where_the_images_put_them(
    compose: dict[str, Any],
) -> None:
    for service in map(compose["services"].__getitem__, SERVERS):
        instructions = dockerfile(service["build"]["dockerfile"])
        volumes = json.loads(dict(instructions)["VOLUME"])
        assert [volume.split(":")[1] for volume in service["volumes"]] == volumes
        environment = " ".join(value for name, value in instructions if name == "ENV")
        assert all(f"={volume}" in environment for volume in volumes)


def test_the_settings_that_images_compose_files_and_documents_name_exist() -> None:
    files = [*ROOT.glob("Dockerfile.*"), *ROOT.glob("compose*.yaml"), *ROOT.glob("deploy/*.py")]
    text = documentation() + "".join(path.read_text(encoding="utf-8") for path in files)
    named = set(re.findall(r"\b[A-Z]\w*__[A-Z]\w*", text))
    assert {"KAFKA__BOOTSTRAP_SERVERS", "JOBS__DIRECTORY"} <= named
    assert named - {name for name, _ in variables()} == set()


def dockerfile(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of each line, continued lines joined."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(first, rest) for first, _, rest in (line.partition(" ") for line in lines)]


def copied_from_the_project(name: str) -> Iterator[str]:
    for instruction, arguments in dockerfile(name):
        if instruction == "COPY" and not arguments.startswith("--from"):
            yield from arguments.split()[:-1]


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_the_image_runs_as_a_user_and_tells_its_health(name: str) -> None:
    last = dict(dockerfile(name))
    assert last["USER"] != "root"
    assert "/healthcheck" in last["HEALTHCHECK"]
    assert json.loads(last["CMD"])[:3] == ["serve", "--host", "0.0.0.0"]


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_the_build_context_has_what_the_image_copies(name: str) -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set(copied_from_the_project(name))
    assert copied <= allowed
    assert all((ROOT / path).exists() for path in copied)


def test_every_package_that_is_asked_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {re.split(r"[\[<>=~! ]", line)[0].replace("_", "-").lower() for line in asked}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^ ;]+( ; .+)?", pin) for pin in pins)
    assert names - {pin.split("==")[0] for pin in pins} == set()
