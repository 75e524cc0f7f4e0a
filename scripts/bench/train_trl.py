"""Training steps with TRL's SFTTrainer as it is shipped, gradient checkpointing on; prints a line of JSON.

Usage: train_trl.py NF4_DIR WORK STEPS DROPPED

It draws its own adapter and clips gradients at 1, so that only the loss of step 1 is that of the others.
"""
import json
import sys
import time

import rival
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

BATCH = 4


class Clock(TrainerCallback):
    def __init__(self):
        self.times = []

    def on_step_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.times.append(time.perf_counter() - self.start)


def main():
    path, work, steps, dropped = sys.argv[1:]
    with open(f"{work}/rows.jsonl") as lines:
        rows = [{"input_ids": json.loads(line)["input_ids"]} for line in lines]
    config = SFTConfig(
        output_dir=f"{work}/trl",
        per_device_train_batch_size=BATCH,
        max_steps=int(steps),
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_length=len(rows[0]["input_ids"]),
        bf16=True,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=rival.load(path, "sdpa"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        callbacks=[clock],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=rival.PROJECTIONS, task_type="CAUSAL_LM"),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    speed = rival.rate(clock.times, BATCH * config.max_length, int(dropped))
    print(json.dumps({"tokens_per_s": speed, "first_step_s": clock.times[0], "losses": losses}))


if __name__ == "__main__":
    main()
