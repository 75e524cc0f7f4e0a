#!/usr/bin/env python3
"""Trains the same adapter on the same rows with PEFT + bitsandbytes + torch and with qlora-train; compares losses.

Usage: check_training.py QLORA_TRAIN QUANTIZED_DIR CHAT_ROWS WORK_DIR

The adapter is made and saved by PEFT. Each step is 4 rows; f32 math on both sides.
"""
import json
import os
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

import f32

STEPS = 20
ROWS = 4
LEARNING_RATE = 2e-4
WEIGHT_DECAY = 0.01
TOLERANCE = 2e-3  # relative, at every step


def encode(tokenizer, path):
    with open(path) as lines:
        rows = [json.loads(line)["messages"] for line in lines][: STEPS * ROWS]
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def start(quantized, work):
    model, _ = f32.load(quantized)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.save_pretrained(f"{work}/start")
    return model.train()


def train_with_peft(model, rows):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    for step in range(STEPS):
        window = [torch.tensor([ids]) for ids in rows[step * ROWS : (step + 1) * ROWS]]
        trained = sum(ids.shape[1] - 1 for ids in window)
        total = 0.0
        for ids in window:
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            loss = cross_entropy(logits, ids[0, 1:], reduction="sum") / trained
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def train_with_qlora(binary, quantized, rows, work):
    with open(f"{work}/rows.jsonl", "w") as out:
        out.writelines(json.dumps({"input_ids": ids}) + "\n" for ids in rows)
    with open(f"{work}/recipe.toml", "w") as out:
        out.write(f"""
[model]
adapter = "{work}/start"
[data]
shuffle = false
[train]
max_steps = {STEPS}
batch_size = {ROWS}
learning_rate = {LEARNING_RATE}
weight_decay = {WEIGHT_DECAY}
lr_scheduler = "constant"
max_grad_norm = 0.0
precision = "f32"
""")
    arguments = ["--model", quantized, "--data", f"{work}/rows.jsonl", "--output", f"{work}/run"]
    subprocess.run([binary, "train", f"{work}/recipe.toml", *arguments], check=True, stdout=subprocess.DEVNULL)
    with open(f"{work}/run/metrics.jsonl") as lines:
        return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    binary, quantized, chats, work = sys.argv[1:]
    os.makedirs(work)
    rows = encode(AutoTokenizer.from_pretrained(quantized), chats)
    theirs = train_with_peft(start(quantized, work), rows)
    ours = train_with_qlora(binary, quantized, rows, work)
    if len(ours) != len(theirs):
        sys.exit(f"{len(ours)} steps, not {len(theirs)}")
    error = max(abs(a - b) / b for a, b in zip(ours, theirs))
    print(f"{STEPS} steps: loss {theirs[0]:.4f} -> {theirs[-1]:.4f}, largest difference {error:.1e} at any step")
    if not error <= TOLERANCE:
        sys.exit(f"losses differ by more than {TOLERANCE}: {ours} against {theirs}")


if __name__ == "__main__":
    main()
