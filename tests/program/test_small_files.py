"""The text files beside the weights, where they are damaged or no files at all: run and serve refuse them, inspect says so."""
import json
import os

import pytest

from test_bad_files import CONFIGS, CRASH, TOKENIZERS, refused, refused_everywhere
from weir_program import golden_folder, weir

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
SMALL_FILES = ["tokenizer.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"]


@pytest.fixture
def folder(tmp_path):
    into = golden_folder("dense-tied", tmp_path, copy=True)
    (into / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return into


def inspected(folder, word):
    """inspect lists whatever run would refuse, each once."""
    done = weir("inspect", folder)
    assert done.returncode == 4 and not CRASH.search(done.stderr + done.stdout)
    problems = [line for line in done.stdout.splitlines() if line.startswith("cannot run")]
    assert any(word in line for line in problems), done.stdout
    assert len(set(problems)) == len(problems), done.stdout


def test_inspect_takes_what_runs(folder):
    assert weir("inspect", folder).returncode == 0
    (folder / "chat_template.jinja").unlink()
    assert weir("inspect", folder).returncode == 0, "plain prompts need no template"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_inspect_names_a_broken_tokenizer(folder, name):
    path = folder / "tokenizer.json"
    path.write_text(TOKENIZERS[name](json.loads(path.read_text())))
    inspected(folder, "tokenizer")


@pytest.mark.parametrize("name,text", [("generation_config.json", '{"top_p": 7}'), ("tokenizer_config.json", "{"),
                                       ("tokenizer_config.json", '{"eos_token": "none such"}'), ("chat_template.jinja", "{% for %}")])
def test_inspect_names_what_run_refuses(folder, name, text):
    (folder / name).write_text(text)
    refused("run", folder, "a")
    inspected(folder, name)


def test_inspect_names_a_missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    inspected(folder, "tokenizer.json")


@pytest.mark.parametrize("name", SMALL_FILES)
@pytest.mark.parametrize("what,said", [("folder", "folder"), ("fifo", "no regular file"), ("dangling", "link"), ("lfs", "Git LFS pointer")])
def test_a_small_file_that_is_none_is_refused(folder, name, what, said):
    path = folder / name
    path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)  # reading it would wait for ever
    elif what == "dangling":
        path.symlink_to(folder / "nowhere")
    else:
        path.write_text(POINTER)
    for command in (("run", folder, "a"), ("serve", folder, "--port", 0), ("chat", folder)):
        message, remedy = refused(*command)
        assert name in message and said in message and remedy, (command[0], message, remedy)
    inspected(folder, name)


def test_a_pointer_of_git_lfs_is_no_shard(folder):
    (folder / "model.safetensors").write_text(POINTER)
    refused_everywhere(folder, "Git LFS pointer")
    assert "git lfs pull" in refused("plan", folder)[1]


def test_a_range_of_the_config_is_remedied_there(folder):
    path = folder / "config.json"
    path.write_text(CONFIGS["negative_width"](json.loads(path.read_text())))
    message, remedy = refused("plan", folder)
    assert "hidden_size" in message and "config.json" in remedy and "--help" not in remedy


@pytest.mark.parametrize("by_flag", [False, True])
@pytest.mark.parametrize("text", ["", " \n"], ids=["nothing", "blank"])
def test_an_empty_template_is_named(folder, text, by_flag):
    path = folder / ("given.jinja" if by_flag else "chat_template.jinja")
    path.write_text(text)
    message, remedy = refused("run", folder, "a", *(("--chat-template", path) if by_flag else ()))
    assert str(path) in message and "empty" in message and remedy


def test_a_folder_is_no_template(folder):
    message, remedy = refused("run", folder, "a", "--chat-template", folder)
    assert str(folder) in message and "folder" in message and remedy
