"""What README and docs/ say about fields, settings, files and commands is what the code has."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from latentsync.cli.app import commands as commands_of_cli
from latentsync.cli.segments import read_speech
from latentsync.client import Segment
from latentsync.client._payload import segment_fields
from latentsync.errors import InvalidField, every_error
from latentsync.schema.engines import ENGINES
from latentsync.schema.predict import PredictRequest, SegmentFields, parse_request, validate_fields
from latentsync.settings import Settings, describe_unknown_variables, variable_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
DOCUMENTS = {
    name: (ROOT / name).read_text("utf-8")
    for name in (
        "README.md",
        "CURL_TEST_GUIDE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "assets/LICENCES.md",
        *(f"docs/{page}" for page in PAGES),
    )
}
README = DOCUMENTS["README.md"]
SETTINGS = PAGES["settings.md"]
SEGMENTS = PAGES["segments.md"]

README_LINES_MAX = 160
OF_OTHER_REPOSITORIES = {"latentsync/utils/mask.png"}  # where a number of assets/ comes from

every_document = pytest.mark.parametrize("document", DOCUMENTS)


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in one of the languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> list[list[str]]:
    """Return the words of every shell command of a page, without comments and here-documents."""
    script = "\n".join(blocks(text, "bash"))
    script = re.sub(r"<<-? ?'?(\w+)'?(.*?)\n.*?^\1$", r"\2", script, flags=re.DOTALL | re.MULTILINE)
    script = re.sub(r"(?<!\S)#.*", "", script.replace("\\\n", " "))
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&|()\n<>")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if re.fullmatch(r"[;&|()\n]+", word):
            found.append([])
        else:
            found[-1].append(word.lstrip("$"))
    return [words for words in found if words]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= README_LINES_MAX


def test_the_readme_links_every_page():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README))
    assert linked == set(PAGES)


def test_pages_have_lower_case_names():
    assert all(re.fullmatch(r"[a-z-]+\.md", name) for name in PAGES)


@every_document
def test_links_resolve(document):
    text = DOCUMENTS[document]
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link


@every_document
def test_settings_that_are_named_exist(document):
    # CHANGELOG and settings.md name earlier variables, which are still read and so are known.
    named = set(re.findall(r"\bLATENTSYNC_\w*[A-Z0-9]\b", DOCUMENTS[document]))
    assert describe_unknown_variables(dict.fromkeys(named, "")) == []


@every_document
def test_files_of_the_repository_that_are_named_exist(document):
    names = r"`((?:latentsync|tests|docs|assets|benchmarks|demo|deploy)/[\w/-]+\.\w+)`"
    for name in re.findall(names, DOCUMENTS[document]):
        assert (ROOT / name).exists() or name in OF_OTHER_REPOSITORIES, name


@every_document
def test_files_that_examples_read_exist(document):
    """What an example writes, a later one may read."""
    text = "\n".join(blocks(DOCUMENTS[document], "bash", "python"))
    text = re.sub(r"https?://[^\s\"']+", "", text)
    text = re.sub(r"(?<!\S)#.*", "", text)
    written = set(
        re.findall(
            r"""(?:-o|--output|>|\bsave\(|\bdownload\(job,|open\()\s*["']?([\w./-]+)""", text
        )
    )
    kinds = "mp4|wav|ogg|png|jpg|json|py|sh|yaml|toml|txt"
    for name in re.findall(rf"(?<![\w./$-])([\w-][\w./-]*\.(?:{kinds}))\b", text):
        assert (ROOT / name).exists() or name in written, name


@every_document
def test_commands_of_examples_exist(document):
    program = typer.main.get_command(commands_of_cli)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in commands(DOCUMENTS[document]):
        if words[0] == "make":
            assert words[1] in targets, words
        if words[0] == "latentsync":
            command = program
            rest = words[1:]
            while rest and rest[0] in getattr(command, "commands", {}):
                command = command.commands[rest.pop(0)]
            assert command is not program, words
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            options = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert options <= known, words


@every_document
def test_make_targets_that_are_named_exist(document):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`make (\w+)", DOCUMENTS[document]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@every_document
def test_benchmarks_that_are_named_exist(document):
    for name in re.findall(r"python (?:-m )?benchmarks[./](\w+)", DOCUMENTS[document]):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name


@every_document
def test_packages_are_installed_from_the_checkout(document):
    """No package index has this package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert not re.search(r"pip install ['\"]?latentsync", DOCUMENTS[document])
    for extra in re.findall(r"pip install -e '\.\[([\w,]+)\]'", DOCUMENTS[document]):
        assert set(extra.split(",")) <= set(extras["optional-dependencies"]), extra


@every_document
def test_python_examples_compile_and_import_what_exists(document):
    for block in blocks(DOCUMENTS[document], "python"):
        compile(block, document, "exec")
        for line in re.findall(r"^from latentsync.*$", block, re.MULTILINE):
            exec(line, {})


@every_document
def test_error_codes_have_the_status_that_is_shown(document):
    known = every_error()
    for status, codes in re.findall(
        r"^\| (\d{3}) \| (`.*?`) \|", DOCUMENTS[document], re.MULTILINE
    ):
        for code in re.findall(r"`(\w+)`", codes):
            assert known[code].status == int(status), code


@pytest.mark.parametrize("document", ["README.md", "docs/engines.md", "docs/jobs.md"])
def test_every_engine_is_named(document):
    assert all(f"`{name}`" in DOCUMENTS[document] for name in ENGINES)


def test_the_settings_table_has_every_setting_and_no_other():
    listed = re.findall(r"^\| `(LATENTSYNC_\w+)` \|", SETTINGS, re.MULTILINE)
    assert sorted(listed) == sorted(map(variable_of, Settings.model_fields))


def test_the_settings_table_shows_the_defaults():
    shown_defaults = dict(re.findall(r"^\| `(LATENTSYNC_\w+)` \| (\S+) \|", SETTINGS, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        shown, default = shown_defaults.get(variable_of(name), ""), field.default
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert float(shown) == default, name


def test_the_fields_table_has_every_field_of_the_request():
    table = PAGES["jobs.md"].split("### Request fields")[1].split("\n\n")[1]
    assert set(re.findall(r"`(\w+)`", table)) >= set(PredictRequest.model_fields)


@pytest.mark.parametrize("document", ["docs/jobs.md", "CURL_TEST_GUIDE.md"])
def test_the_error_shown_is_the_error_answered(document):
    with pytest.raises(InvalidField) as caught:
        parse_request({"video_url": "http://a/b", "audio_url": "http://a/b", "inference_steps": 51})
    assert caught.value.code in DOCUMENTS[document]
    assert caught.value.message in DOCUMENTS[document]


def test_every_folder_and_file_of_the_map_exists():
    tree = DOCUMENTS["CONTRIBUTING.md"].split("## Where things are")[1].split("```")[1]
    for name in re.findall(r"^(\S+?)  ", tree, re.MULTILINE):
        if "{" not in name:
            assert (ROOT / name).exists(), name


def test_the_segments_shown_are_allowed_and_the_same_everywhere(tmp_path):
    form = json.loads(re.search(r"-F 'segments=(.*?)'", SEGMENTS, re.DOTALL)[1])
    (tmp_path / "segments.json").write_text(re.search(r"<<END\n(.*?)END", SEGMENTS, re.DOTALL)[1])
    listed = read_speech(None, tmp_path / "segments.json")
    python = re.search(r"^segments = \[.*?^\]", SEGMENTS, re.DOTALL | re.MULTILINE)[0]
    shown = {"Segment": Segment}
    exec(python, shown)  # what the page shows
    fields = [segment_fields(one) for one in listed]
    assert [segment_fields(one) for one in shown["segments"]] == fields
    checked = validate_fields({"segments": form}).segments
    assert validate_fields({"segments": fields}).segments == checked
    recordings = [str(tmp_path / one.audio) for one in shown["segments"]]
    assert [one.audio for one in listed] == recordings


def test_the_table_of_a_segment_has_every_field():
    table = SEGMENTS.split("| field of a segment |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(SegmentFields.model_fields)
