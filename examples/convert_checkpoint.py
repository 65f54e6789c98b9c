#!/usr/bin/env python3
"""Turns a PyTorch checkpoint (pytorch_model.bin, *.pt, *.pth) into model.safetensors.

    python3 examples/convert_checkpoint.py FOLDER_OR_FILE [--out FILE] [--force]

Only tensors are read (torch.load with weights_only=True), so that the file cannot run code. It must hold a plain state
dict: names and tensors, nothing else. Shards listed by pytorch_model.bin.index.json are put together. An output head
(lm_head.weight) that is the very same tensor as another one is left out, as save_pretrained does: readers tie it again.
Other tensors that share memory are written in full, each. What was done is printed. Needs torch; uses the safetensors
package if it is installed, and writes the format itself if not.
"""
import argparse
import json
import os
import pathlib
import struct
import sys
import tempfile

# Wide types first: the order in which the format's reference implementation writes them.
DTYPES = ["bool:BOOL", "uint8:U8", "int8:I8", "float8_e5m2:F8_E5M2", "float8_e4m3fn:F8_E4M3",
          "float8_e8m0fnu:F8_E8M0", "float8_e4m3fnuz:F8_E4M3FNUZ", "float8_e5m2fnuz:F8_E5M2FNUZ", "int16:I16",
          "uint16:U16", "float16:F16", "bfloat16:BF16", "int32:I32", "uint32:U32", "float32:F32", "complex64:C64",
          "float64:F64", "int64:I64", "uint64:U64"]
NAMES = dict(pair.split(":") for pair in DTYPES)
RANKS = {pair.split(":")[0]: rank for rank, pair in enumerate(DTYPES)}


def fail(sentence):
    sys.exit(f"convert_checkpoint: {sentence}")


def find_inputs(given):
    """The pickle files to read, all of one checkpoint."""
    if given.is_file():
        return [given]
    if not given.is_dir():
        fail(f"{given} is neither a file nor a folder")
    index = given / "pytorch_model.bin.index.json"
    if (given / "pytorch_model.bin").is_file():
        return [given / "pytorch_model.bin"]
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            fail(f"{index} is no index of shards")
        for shard in shards:
            if not isinstance(shard, str) or pathlib.PurePath(shard).name != shard:
                fail(f"{index} names the shard {shard!r}, which is not a file of this folder")
        return [given / shard for shard in shards]
    found = sorted(path for path in given.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
    if len(found) != 1:
        fail(f"{given} holds {len(found)} files *.bin, *.pt or *.pth and no pytorch_model.bin: name the file instead")
    return found


def load(paths):
    """One state dict of all files; refuses whatever is not names and dense tensors."""
    import torch

    state = {}
    for path in paths:
        try:
            part = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds, all of which mean the same here
            reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
            fail(f"{path} cannot be read as weights only: {reason}")
        if not isinstance(part, dict) or not part:
            fail(f"{path} holds a {type(part).__name__}, not a plain state dict of names and tensors")
        for name, value in part.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                fail(f"{path} is no plain state dict: its entry {name!r} is a {type(value).__name__}, not a tensor")
            if value.layout != torch.strided or value.is_quantized or kind(value) not in NAMES:
                fail(f"{path} holds {name!r} as {value.dtype}, {value.layout}, which safetensors cannot hold")
            if name in state or name == "__metadata__":
                fail(f"{path} holds the name {name!r}, which is taken")
            state[name] = value
        print(f"read {len(part)} tensors from {path}")
    return state


def kind(tensor):
    return str(tensor.dtype).split(".")[-1]


def without_tied_head(state):
    """Leaves out a head that is another tensor under a second name; makes all others dense and row-major."""
    def place(tensor):
        return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(),
                tensor.dtype, tensor.is_conj(), tensor.is_neg())

    kept, first = {}, {}
    is_head = {name: name.split(".")[-2:] == ["lm_head", "weight"] for name in state}
    for name in sorted(state, key=lambda name: (is_head[name], name)):
        tensor = state[name]
        twin = first.setdefault(place(tensor), name) if tensor.numel() else name
        if twin != name and is_head[name]:
            print(f"left out {name}: it is the same tensor as {twin}")
            continue
        if twin != name:
            print(f"wrote {name} in full, though it is the same tensor as {twin}")
        kept[name] = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return kept


def raw_bytes(tensor):
    import ctypes

    if tensor.numel() == 0:
        return b""
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def write_format(state, out):
    """The format by hand: length of the header, JSON padded to 8 bytes, data."""
    if sys.byteorder != "little":
        fail("this machine is big-endian: install the safetensors package")
    order = sorted(state, key=lambda name: (-RANKS[kind(state[name])], name))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in order:
        tensor = state[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[kind(tensor)], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(out, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(raw_bytes(state[name]))


def write(state, out):
    """Writes beside `out`, syncs and renames, so that an error leaves nothing behind."""
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=".convert-")
    os.close(handle)
    try:
        try:
            from safetensors.torch import save_file
        except ImportError:
            write_format(state, temporary)
        else:
            # the package wants each tensor to own its memory
            storages = [tensor.untyped_storage().data_ptr() for tensor in state.values()]
            own = {name: tensor.clone() if storages.count(tensor.untyped_storage().data_ptr()) > 1 else tensor
                   for name, tensor in state.items()}
            save_file(own, temporary, metadata={"format": "pt"})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, out)
    except OSError as error:
        fail(f"cannot write {out}: {error.strerror or error}")
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=pathlib.Path, metavar="FOLDER_OR_FILE")
    parser.add_argument("--out", type=pathlib.Path, help="default: model.safetensors beside the input")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    options = parser.parse_args()
    try:
        import torch  # noqa: F401
    except ImportError:
        fail("this needs PyTorch: python3 -m pip install torch")
    paths = find_inputs(options.input)
    out = options.out or paths[0].parent / "model.safetensors"
    if out.exists() and not options.force:
        fail(f"{out} exists: give --force to replace it")
    state = without_tied_head(load(paths))
    write(state, out)
    print(f"wrote {len(state)} tensors, {out.stat().st_size} bytes, to {out}")


if __name__ == "__main__":
    main()
