"""The process and what is around it: output, memory, the working directory, pipes, the model's name."""
import json
import subprocess

import pytest

from test_commands import GOLDEN, refused
from weir_program import BINARY, Safetensors, Server, golden_folder, weir


def shell(line, **options):
    return subprocess.run(["bash", "-c", line.replace("weir ", f"{BINARY} ", 1)], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_is_a_failure(shipped, tmp_path, redirection):
    (tmp_path / "tokens").write_text("1 2 3")
    for command in ("help", "help --markdown", "--version", "run --help", f"inspect {shipped}", f"plan {shipped}",
                    f"run {shipped} hi --max-tokens 2", f"logits {shipped} {tmp_path}/tokens"):
        done = shell(f"weir {command} {redirection}")
        assert done.returncode == 4, (command, done)
        assert "standard output could not be written" in done.stderr and "\n  check" in done.stderr, (command, done.stderr)


def test_memory_that_the_system_refuses_is_an_error_with_a_remedy(shipped):
    done = shell(f"ulimit -v 4000000; weir run {shipped} hi --max-num-batched-tokens 1000000 --kv-cache-memory-bytes 67108864")
    assert done.returncode == 3, done
    assert "memory" in done.stderr and "--max-num-batched-tokens" in done.stderr


def test_a_working_directory_that_is_gone_is_named(tmp_path):
    for model in (".", "xs", "./xs"):
        done = shell(f"mkdir gone; cd gone; rmdir ../gone; weir inspect {model}", cwd=tmp_path)
        assert done.returncode == 4 and "the working directory is gone" in done.stderr, done


def test_a_model_is_called_by_the_last_part_of_its_path(tmp_path, monkeypatch):
    folder = golden_folder("dense-tied", tmp_path)
    monkeypatch.chdir(folder)
    for given in (f"{folder}/", ".", f"../{folder.name}//"):
        with Server(given) as server:
            assert server.model == "dense-tied", given
    assert "--served-model-name" in refused("serve", folder, "--served-model-name", "")


def test_token_ids_may_come_from_a_pipe():
    done = weir("logits", GOLDEN, "/dev/stdin", "--json", stdin="1 2 3")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    assert "more than" in refused("logits", GOLDEN, "/dev/zero", code=3)
    assert "folder" in refused("logits", GOLDEN, GOLDEN)
    assert "TOKENS" in refused("logits", GOLDEN)


def test_logits_that_are_not_finite_are_null_in_json(tmp_path):
    folder = golden_folder("moe-odd", tmp_path, copy=True)
    file = Safetensors(folder / "model.safetensors")
    begin, end = file.header["model.language_model.embed_tokens.weight"]["data_offsets"]
    row = (end - begin) // 211
    data = bytearray(file.data)
    data[begin + 7 * row:begin + 8 * row] = b"\xc0\x7f" * (row // 2)  # NaN in BF16: the token 7 is damaged
    file.data = bytes(data)
    (folder / "model.safetensors").write_bytes(file.encoded())
    done = weir("logits", folder, "/dev/stdin", "--json", stdin="1 7 3")
    assert done.returncode == 0 and "nan" not in done.stdout and "inf" not in done.stdout, done
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["logprob"] is None for row in rows] == [False, True, True]


def test_bytes_of_a_token_file_are_shown_escaped(tmp_path):
    path = tmp_path / "tokens"
    path.write_bytes(b"\x1b[31m\x00\x80\xff".replace(b"[", b"") + b"x" * 1000)
    said = refused("logits", GOLDEN, path)
    assert r"\x1b31m\x00\x80\xff" in said and all(" " <= c <= "~" or c == "\n" for c in said) and len(said) < 1000


@pytest.mark.parametrize("flag,value", [("--temperature", -0.5), ("--top-p", 0), ("--min-p", -0.1)])
def test_sampling_has_the_ranges_of_the_api(flag, value):
    for command in (("run", GOLDEN, "hi"), ("chat", GOLDEN)):
        assert flag in refused(*command, flag, value)
