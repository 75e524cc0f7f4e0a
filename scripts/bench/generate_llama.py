"""Processing of a prompt and decoding after it in llama.cpp; prints a line of JSON with tokens a second.

Usage: generate_llama.py GGUF PROMPT_TOKENS NEW_TOKENS [--plain]

--plain leaves weights as they are in the file, without the layouts for AMX and others: the AMX one of
llama-cpp-python 0.3.36 crashes on Q4_1 when built with GCC 12.
"""
import json
import os
import sys
import time

import llama_cpp


def main():
    path, prompt_tokens, new_tokens, *options = sys.argv[1:]
    prompt_tokens, new_tokens = int(prompt_tokens), int(new_tokens)
    if "--plain" in options:
        defaults = llama_cpp.llama_cpp.llama_model_default_params()
        defaults.use_extra_bufts = False
        llama_cpp.llama_cpp.llama_model_default_params = lambda: defaults
    threads = os.cpu_count()
    llama = llama_cpp.Llama(
        path, n_ctx=prompt_tokens + new_tokens, n_batch=prompt_tokens, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    prompt = [100 + 37 * i % (llama.n_vocab() - 100) for i in range(prompt_tokens)]
    llama.eval(prompt)  # allocates and touches what the timed run reuses
    llama.reset()
    times = []
    start = time.perf_counter()
    llama.eval(prompt)
    for _ in range(new_tokens):
        token = llama.sample(temp=0.0)
        times.append(time.perf_counter() - start)
        llama.eval([token])
    decode = (len(times) - 1) / (times[-1] - times[0])
    print(json.dumps({"prompt_tokens_per_s": prompt_tokens / times[0], "decode_tokens_per_s": decode}))


if __name__ == "__main__":
    main()
