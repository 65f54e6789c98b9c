"""What a model of 7B asks for: its folder is holes, which take no disk."""
import json
import os
import subprocess
import time

from harness import PROGRAM, Skip, main, test

DEPTH, WIDTH, INNER, VOCABULARY = 32, 4096, 11008, 32000


def shapes():
    """name -> shape of every tensor, in the order of the published shards."""
    table = {"model.embed_tokens.weight": [VOCABULARY, WIDTH]}
    for i in range(DEPTH):
        at = f"model.layers.{i}."
        for name in "qkvo":
            table[f"{at}self_attn.{name}_proj.weight"] = [WIDTH, WIDTH]
        table |= {f"{at}mlp.gate_proj.weight": [INNER, WIDTH], f"{at}mlp.up_proj.weight": [INNER, WIDTH],
                  f"{at}mlp.down_proj.weight": [WIDTH, INNER], f"{at}input_layernorm.weight": [WIDTH],
                  f"{at}post_attention_layernorm.weight": [WIDTH]}
    return table | {"model.norm.weight": [WIDTH], "lm_head.weight": [VOCABULARY, WIDTH]}


def write_holes(path, table):
    """A safetensors file of float16 zeros that the file system does not store."""
    header, end = {}, 0
    for name, shape in table.items():
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    if os.stat(path).st_blocks * 512 > 1 << 20:
        raise Skip("needs a file system that stores holes")
    return end


def make_llama(folder):
    folder.mkdir()
    shards, filled = [{}], 0
    for name, shape in shapes().items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        if filled + size > 5_000_000_000:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    places, total = {}, 0
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        total += write_holes(folder / file, shard)
        places |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps(
        {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": DEPTH,
         "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
         "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "float16"}))
    return total


def peak_memory(words):
    """Runs the program; the most anonymous memory that it was seen to hold, in bytes."""
    with subprocess.Popen([str(PROGRAM), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        peak = 0
        while run.poll() is None:
            with open(f"/proc/{run.pid}/status") as status:
                held = [line.split()[1] for line in status if line.startswith("RssAnon:")]
            peak = max([peak, *(1024 * int(kilobytes) for kilobytes in held)])
            time.sleep(0.002)
        out = run.stdout.read()
    assert run.returncode == 0, out
    return peak


@test
def split_7b(folder):
    """the offer of a 13 GB folder is written with less than 2 GB of anonymous memory, also in another type"""
    if b"__asan_init" in PROGRAM.read_bytes():
        raise Skip("memory is measured where no sanitizer adds to it")
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < 4 << 30:
        raise Skip("needs 4 GB of free disk")
    assert make_llama(folder / "model") > 13e9
    words = ["split", "--model", folder / "model", "--bottom", 1, "--top", 1, "--emulator", 1, "--out", folder / "offer"]
    as_it_is = peak_memory(words)
    cast = peak_memory([*words, "--dtype", "bfloat16", "--force", "--dry-run"])
    print(f"{as_it_is / 1e6:.0f} MB; in bfloat16 {cast / 1e6:.0f} MB", flush=True)
    assert 0 < as_it_is < 5e8, "tensors that keep their type were copied"
    assert cast < 2e9, "more was held than what is cast, and one tensor"


main()
