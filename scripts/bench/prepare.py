"""Writes what all contenders start from: rows.jsonl, 80 rows of 256 tokens, and start/, an adapter with B = 0.

Usage: prepare.py NF4_DIR SOURCE WORK

SOURCE is chats in JSON lines, which are rendered and packed end to end, or a safetensors file with `train_ids` [n, 4, 256].
"""
import json
import sys

import rival
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer

ROWS, LENGTH = 80, 256


def pack(tokenizer, path):
    ids = []
    with open(path) as lines:
        for line in lines:
            text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
            ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    return [ids[i : i + LENGTH] for i in range(0, len(ids) - LENGTH + 1, LENGTH)]


def main():
    model, source, work = sys.argv[1:]
    if source.endswith(".safetensors"):
        rows = load_file(source)["train_ids"].reshape(-1, LENGTH).tolist()
    else:
        rows = pack(AutoTokenizer.from_pretrained(model), source)
    if len(rows) < ROWS:
        sys.exit(f"{source}: {len(rows)} rows of {LENGTH} tokens, not {ROWS}")
    with open(f"{work}/rows.jsonl", "w") as out:
        out.writelines(json.dumps({"input_ids": row, "labels": row}) + "\n" for row in rows[:ROWS])
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=rival.PROJECTIONS, task_type="CAUSAL_LM")
    get_peft_model(rival.load(model, "eager"), config).save_pretrained(f"{work}/start")


if __name__ == "__main__":
    main()
