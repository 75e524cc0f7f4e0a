"""Tokenises chats as fine-tuning scripts do with datasets.map, and prints a line of JSON.

Usage: map_rows.py MODEL ROWS.jsonl CACHE

The least that can be asked: the chat template and the ids, no loss mask and no look at the rows.
"""
import json
import sys
import time


def main():
    model, rows, cache = sys.argv[1:]
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenise(batch):
        texts = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
        return {"input_ids": tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]}

    start = time.perf_counter()
    data = load_dataset("json", data_files=rows, split="train", cache_dir=cache)
    loaded = time.perf_counter()
    data = data.map(tokenise, batched=True, num_proc=2, remove_columns=data.column_names)
    mapped = time.perf_counter()
    # Not part of the time: to compare with.
    column = data.data.column("input_ids")
    tokens = sum(len(chunk.flatten()) for chunk in column.chunks)
    print(json.dumps({"rows": len(data), "tokens": tokens, "load_s": loaded - start, "map_s": mapped - loaded}))


if __name__ == "__main__":
    main()
