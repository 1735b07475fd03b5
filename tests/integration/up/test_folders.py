"""`trainshed` in a folder with packages of the user's that bear our names, and in a fresh environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stack import Stack, clean_environment, run_trainshed

ROOT = Path(__file__).resolve().parents[3]
INSTALL_S = 60
NAMES = ("events", "projections", "services")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with packages of our names, each of which fails when it is imported."""
    for name in NAMES:
        (tmp_path / "project" / name).mkdir(parents=True)
        (tmp_path / "project" / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    (tmp_path / "project" / "train.py").write_text("import sys, os; print(os.getcwd(), sys.argv[1:])\n")
    return tmp_path / "project"


def test_up_and_submit_work_in_a_folder_with_packages_of_our_names(
    new_stack: Callable[..., Stack], project: Path
) -> None:
    stack = new_stack(cwd=project)
    done = stack.trainshed("run", "--new", "--", sys.executable, "train.py", "x", cwd=project)
    assert done.text == f"{project} ['x']\n"
    assert stack.trainshed("audit", "verify", cwd=project).code == 0
    assert [line for line in stack.warnings() if "ended" in str(line["event"])] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_pythonpath_that_hides_a_package_is_told_and_nothing_of_it_runs(
    name: str, project: Path, tmp_path: Path
) -> None:
    for other in set(NAMES) - {name}:
        (project / other).rename(tmp_path / other)
    environment = clean_environment(tmp_path / "state", {"PYTHONPATH": str(project)})
    for words in (("up",), ("submit", "--", "true"), ("--help",)):
        done = run_trainshed(*words, environment=environment, code=2)
        assert str(project / name) in done.stderr
        assert "PYTHONPATH" in done.stderr
        assert "the wrong package" not in done.stderr
    assert not (tmp_path / "state").exists()


def test_pip_install_of_both_distributions_gives_a_working_trainshed(tmp_path: Path) -> None:
    """`pip install ./client .` in a fresh environment, from copies of what is tracked."""
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout: what belongs to the distributions is not known")
    for name in tracked.stdout.decode().split("\0"):
        if name.startswith((*(f"{package}/" for package in NAMES), "client/")) or name.endswith(
            ("pyproject.toml", "LICENSE", "README.md")
        ):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=INSTALL_S)
    install = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--only-binary", ":all:"]
    options = ["--retries", "1", "--timeout", "5", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*install, *options, "./client", "."],
            cwd=source,
            capture_output=True,
            timeout=INSTALL_S,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not get the dependencies within {INSTALL_S} s")
    if done.returncode != 0 and ("No matching distribution" in done.stderr or "Connection" in done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    trainshed = venv / "bin" / "trainshed"
    environment = clean_environment(tmp_path / "state")

    def told(*words: str) -> str:
        done = subprocess.run(
            [trainshed, *words], env=environment, capture_output=True, text=True, cwd="/", check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert told("--version").startswith("trainshed 0.")
    for verb in ("up", "submit", "agent", "projector"):
        assert f"Usage: trainshed {verb}" in told(verb, "--help")
