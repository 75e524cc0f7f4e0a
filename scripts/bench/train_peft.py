"""Training steps with PEFT, bitsandbytes and a loop of our own; prints a line of JSON.

Usage: train_peft.py classic|f32|fastest NF4_DIR WORK STEPS DROPPED [--checkpointing]

classic: prepare_model_for_kbit_training, f32 adapter, sdpa attention: the recipe of QLoRA's authors.
f32: the same with products in f32: the fastest where the processor has no products of bf16.
fastest: bf16 adapter under bf16 autocast, eager attention: the fastest that was found where it has them.
"""
import contextlib
import json
import sys
import time

import rival
import torch
from peft import PeftModel, prepare_model_for_kbit_training

BATCH = 4


def build(kind, model, work, checkpointing):
    compute = torch.float32 if kind == "f32" else torch.bfloat16
    model = rival.load(model, "eager" if kind == "fastest" else "sdpa", compute)
    reentrant = {"use_reentrant": False}
    if kind != "fastest":
        model = prepare_model_for_kbit_training(model, checkpointing, reentrant)
    elif checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=reentrant)
        model.enable_input_require_grads()
    model = PeftModel.from_pretrained(model, f"{work}/start", is_trainable=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if kind == "fastest":
        for parameter in trained:
            parameter.data = parameter.data.bfloat16()
    return model.train(), trained


def main():
    kind, path, work, steps, dropped, *options = sys.argv[1:]
    model, trained = build(kind, path, work, "--checkpointing" in options)
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.01)
    with open(f"{work}/rows.jsonl") as lines:
        rows = torch.tensor([json.loads(line)["input_ids"] for line in lines])
    autocast = torch.autocast("cpu", torch.bfloat16) if kind == "fastest" else contextlib.nullcontext()
    times, losses = [], []
    for ids in rows.split(BATCH)[: int(steps)]:
        start = time.perf_counter()
        with autocast:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
        losses.append(loss.item())
    speed = rival.rate(times, BATCH * rows.shape[1], int(dropped))
    print(json.dumps({"tokens_per_s": speed, "first_step_s": times[0], "losses": losses}))


if __name__ == "__main__":
    main()
