"""Each folder of include/offsite includes only what the design lets it; LibTorch only where it may, in small pieces."""
import re

from support import INCLUDE, Tally, headers

# folder -> the folders it may include besides itself and core
ALLOWED = {
    "core": set(),
    "ops": set(),
    "blocks": {"ops"},
    "models": {"blocks", "ops"},
    "emulator": {"blocks", "ops"},
    "adapters": {"blocks", "ops"},
    "aggregation": set(),
    "report": set(),
    "io": set(),
    "data": set(),
    "eval": {"blocks", "data"},
    "trainer": {"blocks", "ops", "adapters", "emulator", "aggregation", "io"},
    "federation": {"aggregation", "io"},
    "transport": {"federation", "io"},
    "rounds": {"blocks", "federation", "io", "trainer"},
}

# What a header may include beyond that: file (or folder) -> headers (regex)
EXCEPTIONS = {
    "": r"io/json_value\.hpp",  # a value without I/O, which configurations and reports are made of
    "data/": r"io/(json|mapped_file).*",
    "trainer/": r"data/(packed_batch|sample|batching)\.hpp|report/.*observer.*\.hpp|models/(causal_lm|checkpoint_model)\.hpp",
    "emulator/": r"models/causal_lm\.hpp",
    "adapters/": r"models/causal_lm\.hpp",
    "eval/": r"models/causal_lm\.hpp",
    "rounds/": r"data/sample\.hpp",
    "io/model_folder.hpp": r"models/(causal_lm|.*concept.*|.*checkpoint.*)\.hpp|blocks/(block_access|visit_parameters)\.hpp",
}

# No LibTorch here: bytes, numbers and text only
WITHOUT_LIBTORCH = r"core/(?!tensors\.hpp|tensor_arena\.hpp|sequences\.hpp).*|io/(safetensors|json|mapped|atomic|staged|sha).*|" \
                   r"data/(task|tokenizer|sample).*|aggregation/.*|federation/.*|transport/.*"
HEAVY = r"(torch/(torch|all|nn|script|jit)|torch/(nn|optim|data|jit)/|ATen/ATen\.h|ATen/Functions\.h)"


def included(header):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', (INCLUDE / header).read_text(), re.MULTILINE)


def part_of(header):
    words = header.split("/")
    return words[1] if len(words) > 2 else ""


def excepted(header, other):
    return any(header.startswith(f"offsite/{place}") and re.fullmatch(pattern, other.removeprefix("offsite/"))
               for place, pattern in EXCEPTIONS.items())


def reaches_libtorch(header, seen):
    """The chain of includes from our `header` to LibTorch, or nothing."""
    seen.add(header)
    for other in included(header):
        if re.match(r"(ATen|c10|torch|caffe2)/", other):
            return [header, other]
        if other.startswith("offsite/") and other not in seen:
            chain = reaches_libtorch(other, seen)
            if chain:
                return [header, *chain]
    return []


tally = Tally()
existing = set(headers())
for header in sorted(existing):
    part, wrong = part_of(header), []
    may_include = {part, "core"} | ALLOWED.get(part, set())
    if part and part not in ALLOWED:
        wrong.append(f"the folder {part} is not in this test's list")
    for other in included(header):
        if other.startswith("offsite/") or other.split("/")[0] in ALLOWED:
            if other not in existing:
                wrong.append(f"includes {other}, which does not exist")
            elif part and part_of(other) not in may_include and not excepted(header, other):
                wrong.append(f"includes {other}: {part} may include {', '.join(sorted(may_include))}")
        elif re.match(HEAVY, other) and header != "offsite/blocks/torch_module.hpp":
            wrong.append(f"includes {other}, which costs every user seconds a file")
    if re.fullmatch(WITHOUT_LIBTORCH, header.removeprefix("offsite/")):
        chain = reaches_libtorch(header, set())
        if chain:
            wrong.append("must do without LibTorch, but: " + " -> ".join(chain))
    tally.check(not wrong, header, "\n".join(wrong))
tally.finish()
