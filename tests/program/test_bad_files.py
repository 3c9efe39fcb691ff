"""Damaged models: each ends with a message that names what is wrong, a remedy and an exit code, and soon."""
import concurrent.futures
import json
import os
import re
import resource
import shutil
import struct

import pytest

from weir_program import GOLDENS, Safetensors, Server, golden_folder, wait_until, weir

CPU_LIMIT_S = 10  # of processor time: a busy machine does not matter
# Beside messages for people these are what a crash prints.
CRASH = re.compile(r"terminate called|Aborted|Segmentation|Sanitizer|[Bb]acktrace|std::\w+|boost::|nlohmann|json\.exception|CHECK")


@pytest.fixture
def folder(tmp_path):
    """A good model folder whose files may be damaged."""
    return golden_folder("dense-tied", tmp_path, copy=True)


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def refused(*arguments):
    before = cpu_s()
    done = weir(*arguments)
    assert 2 <= done.returncode <= 4, (done.returncode, done.stdout[-500:], done.stderr)
    assert cpu_s() - before < CPU_LIMIT_S
    message, _, remedy = done.stderr.partition("\n  ")
    assert message.startswith("weir: "), done.stderr
    assert not CRASH.search(done.stderr + done.stdout), done.stderr
    # Whatever a file says, it does not fill the terminal.
    assert len(done.stderr) < 2000, done.stderr
    return message, remedy.strip()


def refused_everywhere(folder, *words):
    """Reading weights fails in the same words for whoever reads them."""
    tokens = folder / "tokens"
    tokens.write_text("1 2 3")
    for command in (("logits", folder, tokens), ("plan", folder), ("run", folder, "a", "--raw"), ("serve", folder, "--port", 0)):
        message, remedy = refused(*command)
        for word in words:
            assert word in message, (command[0], message)
        assert remedy, (command[0], message)
    # inspect says so on standard output and by its exit code, or cannot read at all.
    done = weir("inspect", folder)
    assert 2 <= done.returncode <= 4 and not CRASH.search(done.stderr + done.stdout)
    for word in words:
        assert word in done.stdout + done.stderr, done.stdout + done.stderr


def test_the_undamaged_folder_runs(folder):
    assert weir("run", folder, "a", "--raw", "--temperature", 0, "--max-tokens", 2).returncode == 0
    assert weir("inspect", folder).returncode == 0


# Bytes of a safetensors file

def cut_header(raw):
    return raw[:100]


def cut_length(raw):
    return raw[:5]


def cut_data(raw):
    return raw[:-1]


def surplus_data(raw):
    return raw + b"\0"


def huge_header(raw):
    return struct.pack("<Q", 1 << 62) + raw[8:]


def header_beyond_the_file(raw):
    return struct.pack("<Q", len(raw)) + raw[8:]


def header_of_200_mb(raw):
    return struct.pack("<Q", 200 << 20) + raw[8:]


def no_json(raw):
    return raw[:8] + b"\xff" * 64 + raw[72:]


def unfinished_json(raw):
    size = struct.unpack("<Q", raw[:8])[0]
    return raw[:8] + raw[8:8 + size].rstrip()[:-1].ljust(size) + raw[8 + size:]


def nested_header(raw):
    header = b'{"a":' * 100000
    return struct.pack("<Q", len(header)) + header


def array_header(raw):
    return struct.pack("<Q", 2) + b"[]"


def wide_header(raw):
    header = json.dumps({f"tensor.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20000)}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize("damage", [cut_header, cut_length, cut_data, surplus_data, huge_header, header_beyond_the_file, header_of_200_mb,
                                    no_json, unfinished_json, nested_header, array_header, wide_header, lambda raw: b""],
                         ids=lambda f: f.__name__.replace("<lambda>", "empty"))
def test_a_damaged_file_is_named(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused_everywhere(folder, *([] if damage is wide_header else ["model.safetensors"]))


# Headers that lie

def overlapping(file, name):
    other = file.header[file.tensors()[1]]["data_offsets"]
    size = file.header[name]["data_offsets"][1] - file.header[name]["data_offsets"][0]
    file.header[name]["data_offsets"] = [other[0], other[0] + size]


def beyond_the_end(file, name):
    begin, end = file.header[name]["data_offsets"]
    file.header[name]["data_offsets"] = [begin + len(file.data), end + len(file.data)]


def backwards(file, name):
    file.header[name]["data_offsets"].reverse()


def negative_offset(file, name):
    file.header[name]["data_offsets"][0] = -8


def overflowing_offset(file, name):
    file.header[name]["data_offsets"] = [2 ** 64 - 8, 2 ** 64 + 8]


def fractional_offset(file, name):
    file.header[name]["data_offsets"][0] = 0.5


def overflowing_shape(file, name):
    file.header[name]["shape"] = [2 ** 32, 2 ** 32]


def negative_shape(file, name):
    file.header[name]["shape"] = [-1, -1]


def shape_of_other_size(file, name):
    file.header[name]["shape"][0] += 1


def transposed_shape(file, name):
    file.header[name]["shape"].reverse()


def flat_shape(file, name):
    shape = file.header[name]["shape"]
    file.header[name]["shape"] = [shape[0] * shape[1]]


def other_dtype(file, name):
    file.header[name]["dtype"] = "F16"  # the same size


def unknown_dtype(file, name):
    file.header[name]["dtype"] = "F17"


def integer_dtype(file, name):
    file.header[name]["dtype"] = "I16"


def without_dtype(file, name):
    del file.header[name]["dtype"]


def no_object(file, name):
    file.header[name] = 7


def missing(file, name):
    # Its bytes go to a tensor that nobody asks for, so that the file itself is whole.
    file.header["surplus." + name] = file.header.pop(name)


LIES = [overlapping, beyond_the_end, backwards, negative_offset, overflowing_offset, fractional_offset, overflowing_shape,
        negative_shape, shape_of_other_size, transposed_shape, flat_shape, other_dtype, unknown_dtype, integer_dtype, without_dtype, no_object,
        missing]


# One dimension has no other order, so these lies are about matrices.
OF_MATRICES = [transposed_shape, flat_shape]
KINDS = ["linear_attn.out_proj", "mlp.down_proj", "norm"]


@pytest.mark.parametrize("kind,lie", [pytest.param(kind, lie, id=f"{kind}-{lie.__name__}") for kind in KINDS for lie in LIES
                                      if kind != "norm" or lie not in OF_MATRICES])
def test_a_lying_header_is_refused_with_the_tensors_name(folder, kind, lie):
    path = folder / "model.safetensors"
    file = Safetensors(path)
    name = next(name for name in file.tensors() if kind in name and name != file.tensors()[1])
    lie(file, name)
    path.write_bytes(file.encoded())
    refused_everywhere(folder, *([] if lie is overlapping else [name]))


def test_an_unknown_tensor_is_named(folder):
    path = folder / "model.safetensors"
    file = Safetensors(path)
    file.header["model.layers.0.secret"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(file.data), len(file.data) + 8]}
    file.data += bytes(8)
    path.write_bytes(file.encoded())
    refused_everywhere(folder, "model.layers.0.secret")


def test_a_tensor_given_twice_is_refused(folder):
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    name = Safetensors(path).tensors()[0]
    entry = json.dumps({name: Safetensors(path).header[name]})[1:-1].encode()
    header = raw[8:8 + size].rstrip()[:-1] + b"," + entry + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + size:])
    refused_everywhere(folder, name)


def test_names_from_a_file_are_shown_without_their_control_bytes(folder):
    path = folder / "model.safetensors"
    file = Safetensors(path)
    name = file.tensors()[3]
    file.header["\x1b[31m\n" * 20] = file.header.pop(name)
    path.write_bytes(file.encoded())
    message, _ = refused("logits", folder, golden_tokens(folder))
    assert "\x1b" not in message and name in message


def golden_tokens(folder):
    path = folder / "tokens"
    path.write_text("1 2 3")
    return path


# Shards

def split(folder, index=None):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    names = Safetensors(folder / "part.safetensors").tensors()
    good = {"metadata": {}, "weight_map": {name: "part.safetensors" for name in names}}
    text = json.dumps(good) if index is None else index(good, names)
    (folder / "model.safetensors.index.json").write_text(text)
    return names


def test_a_good_index_runs(folder):
    split(folder)
    assert weir("logits", folder, golden_tokens(folder)).returncode == 0


def with_map(change):
    def index(good, names):
        change(good["weight_map"], names)
        return json.dumps(good)

    return index


@pytest.mark.parametrize("index", [
    with_map(lambda m, n: m.update({n[0]: "../part.safetensors"})), with_map(lambda m, n: m.update({n[0]: "/etc/passwd"})),
    with_map(lambda m, n: m.update({n[0]: "absent.safetensors"})), with_map(lambda m, n: m.update({n[0]: 7})),
    with_map(lambda m, n: m.update({n[0]: "a/../../part.safetensors"})), with_map(lambda m, n: m.update({n[0]: ""})),
    with_map(lambda m, n: m.pop(n[0])), with_map(lambda m, n: m.update({"another": "part.safetensors"})), with_map(lambda m, n: m.clear()),
    lambda good, n: "{", lambda good, n: "[]", lambda good, n: "", lambda good, n: '{"weight_map": []}', lambda good, n: "[" * 100000,
], ids=["parent", "absolute", "absent", "number", "hidden_parent", "no_name", "one_less", "one_more", "none", "cut", "array", "empty",
        "no_map", "deep"])
def test_a_broken_index_is_refused(folder, index):
    (folder.parent / "part.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    split(folder, index)
    refused_everywhere(folder)


@pytest.mark.parametrize("what", ["folder", "fifo", "dangling", "unreadable"])
def test_what_is_no_file_is_refused(folder, what):
    path = folder / "model.safetensors"
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)  # reading it would wait for ever
    elif what == "dangling":
        path.symlink_to(folder / "nowhere")
    else:
        path.symlink_to("/proc/self/mem")
    refused_everywhere(folder)


def test_no_weights_are_refused_with_the_way_to_get_them(folder):
    (folder / "model.safetensors").unlink()
    message, remedy = refused("logits", folder, golden_tokens(folder))
    assert "model.safetensors" in message and "weir pull" in remedy


# config.json

def changed(**fields):
    def change(config):
        for place in (config, config.get("text_config", {})):
            place.update({key: value for key, value in fields.items() if key in place or place is not config})
        return json.dumps(config)

    return change


CONFIGS = {
    "cut": lambda c: json.dumps(c)[:-2], "empty": lambda c: "", "array": lambda c: "[]", "null": lambda c: "null",
    "deep": lambda c: '{"a":' * 200000, "deep_array": lambda c: '{"model_type": ' + "[" * 1000000, "no_utf8": lambda c: '{"a": "\udcff"}',
    "no_type": lambda c: json.dumps({**c, "model_type": None}), "other_type": lambda c: json.dumps({**c, "model_type": "llama"}),
    "no_text": lambda c: json.dumps({**c, "text_config": []}),
    "negative_width": changed(hidden_size=-48), "huge_width": changed(hidden_size=2 ** 40), "other_width": changed(hidden_size=64),
    "text_width": changed(hidden_size="48"), "fraction": changed(hidden_size=48.5), "no_layers": changed(num_hidden_layers=0),
    "more_layers": changed(num_hidden_layers=10 ** 9), "other_layers": changed(layer_types=["sliding_attention"] * 4),
    "layers_do_not_fit": changed(layer_types=["full_attention"]), "heads": changed(num_attention_heads=5, num_key_value_heads=3),
    "vocabulary": changed(vocab_size=500), "no_vocabulary": changed(vocab_size=0), "epsilon": changed(rms_norm_eps=-1),
    "epsilon_text": changed(rms_norm_eps="small"), "positions": changed(max_position_embeddings=0),
    "quantized": lambda c: json.dumps({**c, "quantization_config": {"quant_method": "gptq"}}),
    "quantized_list": lambda c: json.dumps({**c, "quantization_config": [1]}),
    "untied": lambda c: json.dumps({**c, "tie_word_embeddings": False, "text_config": {**c["text_config"], "tie_word_embeddings": False}}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_broken_config_is_refused(folder, name):
    path = folder / "config.json"
    text = CONFIGS[name](json.loads(path.read_text()))
    assert text != path.read_text()
    path.write_text(text, errors="surrogateescape")
    refused_everywhere(folder)


def test_a_missing_config_is_refused(folder):
    (folder / "config.json").unlink()
    refused_everywhere(folder, "config.json")


# tokenizer.json and its neighbours

def change_model(**fields):
    return lambda t: json.dumps({**t, "model": {**t["model"], **fields}})


TOKENIZERS = {
    "cut": lambda t: json.dumps(t)[:-2], "empty": lambda t: "", "array": lambda t: "[]", "deep": lambda t: '{"model":' * 200000,
    "no_model": lambda t: json.dumps({**t, "model": None}), "unigram": change_model(type="Unigram"), "no_vocab": change_model(vocab=None),
    "negative_id": change_model(vocab={"a": -1}), "huge_id": change_model(vocab={"a": 2 ** 31 - 1}), "twice": change_model(vocab={"a": 0, "b": 0}),
    "text_id": change_model(vocab={"a": "0"}), "merge_of_unknown": change_model(merges=["q zz"]), "merge_of_three": change_model(merges=["a b c"]),
    "merge_number": change_model(merges=[1]),
    "regex": lambda t: json.dumps({**t, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False}}),
    "normalizer": lambda t: json.dumps({**t, "normalizer": {"type": "Magic"}}),
    "added_id": lambda t: json.dumps({**t, "added_tokens": [{"id": 2 ** 40, "content": "x", "special": True}]}),
    "added_none": lambda t: json.dumps({**t, "added_tokens": [{"id": 300, "content": "", "special": True}]}),
    "more_ids_than_rows": lambda t: json.dumps({**t, "model": {**t["model"], "vocab": {**t["model"]["vocab"], **{
        f"{a}{b}{c}": 211 + 676 * i + 26 * j + k for i, a in enumerate("ab") for j, b in enumerate("abcdefghijklmnopqrstuvwxyz")
        for k, c in enumerate("abcdefghijklmnopqrstuvwxyz")}}}}),
}


def refused_with_text(folder, word):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    for command in (("run", folder, "a", "--raw"), ("serve", folder, "--port", 0), ("chat", folder)):
        message, remedy = refused(*command)
        assert word in message + remedy and remedy, (command[0], message, remedy)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_broken_tokenizer_is_refused(folder, name):
    path = folder / "tokenizer.json"
    path.write_text(TOKENIZERS[name](json.loads(path.read_text())))
    refused_with_text(folder, "tokenizer.json")


def test_a_missing_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    refused_with_text(folder, "tokenizer.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"temperature": "hot"}', '{"top_p": 7}', '{"eos_token_id": "x"}', "[" * 100000],
                         ids=["cut", "array", "text", "range", "eos", "deep"])
def test_broken_sampling_defaults_are_refused(folder, text):
    (folder / "generation_config.json").write_text(text)
    refused_with_text(folder, "generation_config.json")


# Templates

@pytest.mark.parametrize("text", ["{% for %}", "{{ 1", "{% if x %}", "{% include 'x' %}", "{{ " + "(" * 100000, "{{ x|nofilter }}",
                                  "\udcff", "x" * (8 << 20)],
                         ids=["for", "open", "no_end", "include", "deep", "filter", "no_utf8", "large"])
@pytest.mark.parametrize("by_flag", [False, True])
def test_a_template_that_does_not_parse_is_refused(folder, text, by_flag):
    path = folder / ("given.jinja" if by_flag else "chat_template.jinja")
    path.write_text(text, errors="surrogateescape")
    flags = ("--chat-template", path) if by_flag else ()
    for command in (("run", folder, "a"), ("serve", folder, "--port", 0)):
        message, remedy = refused(*command, *flags)
        assert remedy or "template" in message, message


RENDERING = {
    "endless_loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "endless_text": "{% set ns = namespace(t='xxxxxxxx') %}{% for a in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}",
    "endless_calls": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "repeat": "{{ 'x' * 999999999999 }}",
    "raise": "{{ raise_exception('I take no such conversation') }}",
    "undefined": "{{ messages[7].content.text }}",
    "zero": "{{ 1 // 0 }}",
}


def test_a_template_that_fails_is_400_in_a_moment_and_the_server_goes_on(folder):
    for name, text in RENDERING.items():
        (folder / "chat_template.jinja").write_text(text)
        with Server(folder) as server:
            answer = server.post("/v1/chat/completions", messages=[{"role": "user", "content": "a"}], max_tokens=1)
            assert answer.status_code == 400, (name, answer.text)
            said = answer.json()["error"]["message"]
            assert 5 < len(said) < 500 and not CRASH.search(said), (name, said)
            assert name != "raise" or "I take no such conversation" in said
            assert server.complete([1, 2], max_tokens=1, ignore_eos=True)["finish_reason"] == "length"
            assert server.memory_bytes() < 1 << 30
        message, _ = refused("run", folder, "a")  # which measures its time, too
        assert len(message) > 10


def test_without_a_template_chat_is_400_and_completions_work(folder):
    with Server(folder) as server:
        answer = server.post("/v1/chat/completions", messages=[{"role": "user", "content": "a"}])
        assert answer.status_code == 400 and "/v1/completions" in answer.json()["error"]["message"]
        assert server.complete([1], max_tokens=1, ignore_eos=True)["finish_reason"] == "length"


def test_other_files_in_the_folder_do_no_harm(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "vocab.json").write_text("{")
    shutil.copy(folder / "config.json", folder / "preprocessor_config.json")
    assert weir("run", folder, "a", "--raw", "--temperature", 0, "--max-tokens", 2).returncode == 0


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDENS.iterdir()))
def test_every_tensor_of_every_format_is_missed_by_name(name, tmp_path):
    folder = golden_folder(name, tmp_path, copy=True)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    names = Safetensors(path).tensors()
    tokens = golden_tokens(folder)
    for absent in names[::max(1, len(names) // 8)]:
        file = Safetensors(path)
        missing(file, absent)
        path.write_bytes(file.encoded())
        message, remedy = refused("logits", folder, tokens)
        # Without the one tensor that holds all experts, each expert's own are looked for.
        named = absent.replace(".experts.gate_up_proj", ".experts.0.gate_proj").replace(".experts.down_proj", ".experts.0.down_proj")
        assert (absent in message or named in message) and remedy, (absent, message)
        path.write_bytes(whole)


def test_damaged_weights_end_the_requests_that_meet_them_and_no_other(tmp_path):
    folder = golden_folder("moe-odd", tmp_path, copy=True)
    path = folder / "model.safetensors"
    file = Safetensors(path)
    begin, end = file.header["model.language_model.embed_tokens.weight"]["data_offsets"]
    row = (end - begin) // 211
    data = bytearray(file.data)
    data[begin + 7 * row:begin + 8 * row] = b"\xc0\x7f" * (row // 2)  # NaN in BF16: the token 7 is damaged
    file.data = bytes(data)
    path.write_bytes(file.encoded())
    with Server(folder) as server:
        good, bad = [1, 2, 3, 4, 5], [1, 2, 7, 4, 5]
        expected = server.complete(good, max_tokens=20, temperature=0, logit_bias={7: -100}, return_token_ids=True)
        refusals = 0
        for options in ({}, {"max_tokens": 0, "echo": True, "logprobs": 2}, {"logprobs": 2}, {"temperature": 1, "n": 3}, {"temperature": 0}):
            answer = server.post("/v1/completions", prompt=bad, **{"max_tokens": 20, **options})
            assert answer.status_code == 500 and "not finite" in answer.json()["error"]["message"], (options, answer.text)
            refusals += 1
        stream = server.http.post("/v1/completions", json={"prompt": bad, "stream": True, "max_tokens": 20})
        assert "not finite" in stream.text and "[DONE]" not in stream.text
        # In one batch with a damaged row, and on the pages it had, the others say what they always say.
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            prompts = [bad if i % 2 else good for i in range(16)]
            answers = list(pool.map(lambda p: server.post("/v1/completions", prompt=p, max_tokens=20, temperature=0,
                                                          logit_bias={7: -100}, return_token_ids=True), prompts))
        for prompt, answer in zip(prompts, answers):
            assert answer.status_code == (500 if prompt is bad else 200)
            assert prompt is bad or answer.json()["choices"][0]["token_ids"] == expected["token_ids"]
        assert server.metrics()["weir:not_finite_total"] >= refusals + 1 + 8
        wait_until(server.idle, "all is free")
    done = weir("run", folder, "zz", "--raw", "--max-tokens", 4)
    assert done.returncode == 0, done.stderr
