"""Writes the seeds of the fuzz targets, `corpus/<target>/seed-*`, out of tests/fixtures. Needs Python alone."""

import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "tests" / "fixtures"
NUL = b"\0"


def seed(target: str, name: str, data: bytes) -> None:
    path = HERE / "corpus" / target / f"seed-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def header(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    """A safetensors header; a tensor is its type, shape and bytes."""
    entries, start = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    return as_json(entries)


def safetensors() -> None:
    two = header({"a.weight": ("F32", [2, 2], 16), "b": ("BF16", [3], 6)})
    seed("safetensors", "file", b"r" + struct.pack("<Q", len(two)) + two + bytes(22))
    seed("safetensors", "header", b"h" + two + NUL + b"data")
    other = header({"x": ("I64", [1], 8), "y": ("F16", [], 2), "z": ("F8_E4M3", [0, 4], 0)})
    seed("safetensors", "types", b"h" + other + NUL)
    index = as_json({"metadata": {"total_size": 22}, "weight_map": {"a.weight": "a.safetensors", "b": "a.safetensors"}})
    seed("safetensors", "index", b"i" + index + NUL + two + NUL)


def bitsandbytes() -> None:
    plain = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, 16]}
    nested = plain | {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.32}

    def lengths(kind: int, *parts: tuple[int, int]) -> bytes:
        return bytes([kind]) + b"".join(struct.pack("<BH", *part) for part in parts)

    absent = (255, 0)
    seed("bitsandbytes", "plain", lengths(0, (0, 64), (0, 16), (0, 2), absent, absent) + as_json(plain) + NUL)
    u8 = 6  # A multiple of the number of types: the first.
    seed("bitsandbytes", "nested", lengths(0, (0, 64), (0, 16), (u8, 2), (0, 1), (0, 256)) + as_json(nested) + NUL)
    fp4 = as_json(plain | {"quant_type": "fp4"})
    seed("bitsandbytes", "fp4", lengths(1, (0, 64), (0, 16), (0, 2), absent, absent) + fp4 + NUL)


def gguf() -> None:
    for name in ["tok-spm", "tok-qwen2", "tok-llama-bpe"]:
        seed("gguf", name, NUL + (FIXTURES / "gguf" / f"{name}.gguf").read_bytes())
    whole = (FIXTURES / "gguf" / "qwen2.gguf").read_bytes()
    # Its header; the target adds zeros for data.
    seed("gguf", "qwen2", bytes([60]) + whole[:2048])


def config() -> None:
    for family in ["llama", "qwen3"]:
        text = (FIXTURES / "models" / family / "config.json").read_bytes()
        generation = as_json({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0})
        tokenizer = (FIXTURES / "tokenizer" / "tokenizer_config.json").read_bytes()
        seed("config", family, NUL.join([text, generation, tokenizer, as_json({"eos_token": {"content": "</s>"}})]))
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32}
    text = json.loads((FIXTURES / "models" / "llama" / "config.json").read_text()) | {"rope_scaling": rope}
    seed("config", "yarn", as_json(text))


def adapter() -> None:
    full = json.loads((FIXTURES / "models" / "llama" / "adapter" / "adapter_config.json").read_text())
    sizes = {"self_attn.q_proj": (4, 4), "self_attn.v_proj": (2, 4)}
    tensors = {}
    for layer in range(2):
        for name, (rows, columns) in sizes.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = ("F32", [2, columns], 8 * columns)
            tensors[f"{key}.lora_B.weight"] = ("F32", [rows, 2], 8 * rows)
    weights = header(tensors) + NUL
    names = full | {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    seed("adapter", "names", as_json(names) + NUL + weights)
    pattern = {"peft_type": "LORA", "r": 8, "target_modules": r".*\.(q|v)_proj", "rank_pattern": {"q_proj": 2}}
    pattern |= {"alpha_pattern": {r"layers\.1\..*": 4}, "use_rslora": True}
    seed("adapter", "pattern", as_json(pattern) + NUL + weights)


MINIMAL = "[model]\npath = 'm'\n[data]\npath = 'd'\n[output]\ndir = 'o'\n"


def recipe() -> None:
    quickstart = next((HERE.parent / "recipes").glob("*.toml")).read_text()
    sets = "model.path=m\ndata.path=d\noutput.dir=o\nlora.rank_pattern.q_proj=4\ntrain.max_steps=3\n"
    seed("recipe", "quickstart", quickstart.encode() + NUL + sets.encode())
    seed("recipe", "minimal", MINIMAL.encode())
    sources = MINIMAL.replace("path = 'd'", "sources = [{ path = 'a', weight = 2.0, fields = { prompt = 'q' } }]")
    seed("recipe", "sources", sources.encode())


def checkpoint() -> None:
    identity = {"device": "cpu", "model": "a" * 64, "tokenizer": "b" * 64, "data": "c" * 64, "eval_data": None}
    state = {
        "step": 2, "total_steps": 6, "updates": 2, "passes": 4, "evaluation_due": False,
        "evaluations": [[0, {"loss": 5.5, "tokens": 12, "trained_tokens": 6}]], "best": [2, 5.0], "first_loss": 5.5, "last_loss": 5.0,
        "tokens": 48, "step_seconds": 0.1, "elapsed_seconds": 0.2, "identity": identity,
    }  # fmt: skip
    moments = {"a.exp_avg": ("F32", [4], 16), "a.exp_avg_sq": ("F32", [4], 16)}
    for name in ["exp_avg", "exp_avg_sq"]:
        moments[f"b.{name}.codes"] = ("U8", [4096], 4096)
        moments[f"b.{name}.absmax"] = ("F32", [16], 64)
    parts = [as_json(state), MINIMAL.encode(), header(moments)]
    seed("checkpoint", "parts", b"p" + NUL.join(parts) + NUL)
    files = {"state.json": {"bytes": 0, "sha256": "0" * 64}}
    manifest = {"format": "qlora-train checkpoint", "version": 1, "program": "x", "files": files}
    seed("checkpoint", "manifest", b"m" + as_json(manifest))


def rows() -> None:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    call = {"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}
    tools = {"tools": [{"name": "f"}], "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "1"}, {"role": "assistant", "content": "b", "weight": 1},
    ]}  # fmt: skip
    lines = {
        "chat": chat, "tools": tools,
        "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
        "alpaca": {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
        "completion": {"prompt": "a", "completion": "b"}, "text": {"text": "a b"},
        "tokens": {"input_ids": [1, 2, 3], "labels": [-100, 2, None]},
        "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    }  # fmt: skip
    for name, row in lines.items():
        seed("rows", name, b"\0\0" + as_json(row) + b"\n")
    seed("rows", "list", b"\1\0" + as_json([chat, chat]))
    seed("rows", "csv", b"\2\0prompt,completion\na,\"b\n\"\n")
    seed("rows", "tsv", b"\3\1messages\n" + as_json(chat["messages"]) + b"\n")
    seed("rows", "parquet", b"\4\0" + (FIXTURES / "rows" / "tokens.parquet").read_bytes())


def template() -> None:
    golden = json.loads((FIXTURES / "templates" / "golden.json").read_text())["templates"]
    for name, text in golden.items():
        if len(text) < 3000:
            seed("template", name, text.encode() + NUL + b"Hello" + NUL + b"there")


if __name__ == "__main__":
    for old in HERE.glob("corpus/*/seed-*"):
        old.unlink()
    for make in [safetensors, bitsandbytes, gguf, config, adapter, recipe, checkpoint, rows, template]:
        make()
