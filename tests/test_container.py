"""The container's files: parsed by what reads them, held to what they promise."""

import pathlib
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
dockerfile_parse = pytest.importorskip("dockerfile_parse")


@pytest.fixture(scope="module")
def steps() -> list[dict]:
    with open(ROOT / "Dockerfile", "rb") as file:
        structure = dockerfile_parse.DockerfileParser(fileobj=file).structure
    return [step for step in structure if step["instruction"] != "COMMENT"]


def test_it_runs_as_an_ordinary_user_and_tells_its_health(steps):
    last = [step["instruction"] for step in steps].index("FROM", 2)
    own = {step["instruction"]: step["value"] for step in steps[last:]}
    assert own["USER"] == "10001:10001" and "/readyz" in own["HEALTHCHECK"]
    assert own["ENTRYPOINT"] == '["confp"]' and '"serve"' in own["CMD"]


def test_what_is_copied_is_there_and_the_extras_exist(steps):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    installs = [step for step in steps if "pip install" in step["value"]]
    copies = [step for step in steps if step["instruction"] == "COPY"]
    assert len(copies) > 1 and installs
    for step in steps:
        if step["instruction"] == "COPY" and not step["value"].startswith("--from"):
            *sources, _ = step["value"].split()
            assert all((ROOT / source).exists() and f"!{source}" in ignored for source in sources)
        if "pip install" in step["value"]:
            assert set(step["value"].partition("[")[2].partition("]")[0].split(",")) <= set(extras)


def test_compose_starts_the_service_when_the_watch_has_made_a_database():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["serve"]["depends_on"]["watch"]["condition"] == "service_healthy"
    assert all(services[name]["read_only"] for name in services)
    assert services["watch"]["command"][:2] == ["watch", "/data/music.db"]
