#!/usr/bin/env python3
"""Makes tests/golden/safetensors/*: files as Python's safetensors package writes them, and what is in them.

Run it from the project's root with the packages safetensors (0.8.0) and numpy; it needs no torch. The tests read these
files, compare every byte, and check that our writer gives the same files again.
"""
import json
import pathlib

import numpy as np
from safetensors import TensorSpec, serialize_file

BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
        "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
# What TensorSpec calls them; it has no names for the 6-bit types.
ARGUMENT = {"BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
            "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
            "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
            "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64",
            "U64": "uint64"}


def main():
    folder = pathlib.Path(__file__).parent / "safetensors"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(3)
    shapes = [[], [0], [3], [2, 4], [1, 2, 3]]
    tensors, contents, alive = {}, {}, []

    def add(name, dtype, shape, data):
        # a shape of F4 is given in bytes here, and stored in elements
        given = shape[:-1] + [shape[-1] // 2] if dtype == "F4" else shape
        alive.append(np.frombuffer(data, dtype=np.uint8))
        tensors[name] = TensorSpec(dtype=ARGUMENT[dtype], shape=given, data_ptr=alive[-1].ctypes.data,
                                   data_len=len(data))
        contents[name] = {"dtype": dtype, "shape": shape, "hex": data.hex()}

    for number, dtype in enumerate(ARGUMENT):
        shape = [2, 6] if dtype == "F4" else shapes[number % len(shapes)]
        size = int(np.prod(shape, dtype=np.int64)) * BITS[dtype] // 8
        data = random.integers(0, 2 if dtype == "BOOL" else 256, size, dtype=np.uint8).tobytes()
        add(f"layer.{number % 3}.{dtype.lower()}", dtype, shape, data)
    add('quote" backslash\\ tab\t bell\x07 gr\u00fc\u00df \u6f22 \U0001f600', "F32", [1],
        np.float32(1.5).tobytes())
    serialize_file(tensors, folder / "all_types.safetensors", metadata={"format": "pt"})
    serialize_file({}, folder / "empty.safetensors")
    plain = {name: tensors[name] for name in list(tensors)[11:16]}
    serialize_file(plain, folder / "plain.safetensors")
    (folder / "contents.json").write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
