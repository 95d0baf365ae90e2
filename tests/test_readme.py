"""The commands of the README are run, in order, on a small model and small data."""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
_SMALL = {
    "prune": "--steps 6 --length 16 --batch-tokens 256 --precision fp32 --threads 1 --cache cache",
    "adapt": "--steps 4 --length 16 --batch-tokens 256 --precision fp32 --threads 1 --cache cache",
    "transfer": "--steps 4 --precision fp32 --threads 1",
    "quantize": "--steps 4 --precision fp32 --threads 1",
    "mask": "--steps 4 --precision fp32 --threads 1",
    "bench": "--engines prunella --shapes 1x4 --threads 1 --seconds 0.01",
}
SECTIONS = ("With your own model", "Run it")


def blocks(section: str, language: str) -> list[str]:
    text = README.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[list[str]]:
    """The `prunella` commands of the sections on one's own model and on running it."""
    joined = "\n".join(block for section in SECTIONS for block in blocks(section, "bash"))
    lines = joined.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("prunella ")]


def test_the_commands_of_the_readme_run(
    tiny_checkpoint: Callable[..., Path],
    corpus_file: Path,
    task_files: dict[str, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prunella.cli import main

    for folder in ("corpus", "domain"):
        (tmp_path / folder).mkdir()
        with gzip.open(tmp_path / folder / "a.txt.gz", "wt", encoding="utf-8") as stream:
            stream.write(corpus_file.read_text(encoding="utf-8"))
    shutil.copy(corpus_file, tmp_path / "general.txt")
    shutil.copy(task_files["single"]["train"], tmp_path / "train.jsonl")
    shutil.copy(task_files["single"]["validation"], tmp_path / "dev.jsonl")
    shutil.copytree(tiny_checkpoint("bert", "mlm"), tmp_path / "MODEL")
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert {command[0] for command in found} >= {
        "prune",
        "adapt",
        "transfer",
        "quantize",
        "pack",
        "predict",
        "bench",
        "mask",
        "study",
    }
    for command in found:
        verb = " ".join(command[:2]) if command[1] == "apply" else command[0]
        small = _SMALL.get(verb, "").split()
        length = ["--max-length", "32"] if verb in ("transfer", "quantize", "mask") else []
        assert main([*command, *small, *length]) == 0, command
    assert (tmp_path / "task.prn").stat().st_size > 0
    rows = (tmp_path / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    assert len((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == len(rows)
    (example,) = blocks("Run it", "python")
    exec(compile(example, "README.md", "exec"), {})


def test_every_link_leads_somewhere() -> None:
    documents = [README, README.parent / "CONTRIBUTING.md", *README.parent.glob("docs/*.md")]
    for document in documents:
        prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        links = re.findall(r"\]\(([^)#]+)\)", prose)
        for link in links:
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_every_command_names_a_target_that_exists() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE):
        assert f"\n{target}:" in makefile, target
