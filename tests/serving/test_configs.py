"""The server's own configuration files, read with the messages that the server reads them with."""

from __future__ import annotations

import pathlib
import re

import pytest
from google.protobuf import text_format

import serving
from benchmarks import local_server

FOLDER = pathlib.Path(serving.__file__).parent
model_server_config_pb2 = pytest.importorskip(
    "tensorflow_serving.config.model_server_config_pb2", reason="tensorflow-serving-api isn't installed"
)
yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed")


def model_config(name: str):
    text = (FOLDER / name).read_text()
    (config,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (config.name, config.base_path, config.model_platform) == ("darkroom", "/models/darkroom", "tensorflow")
    return config


def test_the_newest_version_is_served() -> None:
    assert model_config("models.config").model_version_policy.latest.num_versions == 1


def test_the_canary_has_two_versions_with_labels() -> None:
    config = model_config("models-canary.config")
    assert list(config.model_version_policy.specific.versions) == [1, 2]
    assert dict(config.version_labels) == {"stable": 1, "canary": 2}


def test_compose_listens_on_this_machine_only_and_mounts_what_it_names() -> None:
    compose = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
    service = compose["services"]["serving"]
    assert service["image"] == local_server.IMAGE
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert [volume["target"] for volume in service["volumes"]] == ["/models/darkroom", "/config"]
    assert all(volume["read_only"] for volume in service["volumes"])
    files = [match[1] for option in service["command"] if (match := re.search(r"=/config/(.+)", option))]
    assert files and all((FOLDER / file).is_file() for file in files)


def test_kubernetes_runs_the_same_server_with_the_same_options() -> None:
    deployment, service = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    compose = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())["services"]["serving"]
    assert container["image"] == compose["image"]
    assert set(container["args"]) <= set(compose["command"])
    assert [port["port"] for port in service["spec"]["ports"]] == [8500, 8501]


def test_no_document_names_a_server_that_moves() -> None:
    for path in FOLDER.iterdir():
        if path.suffix in (".md", ".yml", ".yaml", ".py"):
            assert not re.search(r"tensorflow/serving:(?!2\.20\.0)", path.read_text()), path.name
