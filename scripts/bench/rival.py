"""What the measured Python programs share: threads, the 4-bit model, timing."""
import os
import statistics
import time

THREADS = os.cpu_count()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import torch

torch.set_num_threads(THREADS)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(path, attention, compute=torch.bfloat16):
    """The NF4 checkpoint as transformers holds it when it quantises a 16-bit one: the rest and products in `compute`."""
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention, device_map={"": "cpu"})
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(compute)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = compute
            module.weight.quant_state.dtype = compute
    model.config.use_cache = False
    return model


def median_ms(run, seconds, prepare=lambda: ()):
    """Of `seconds` of `run`, at least three times after one that is not counted; each takes what `prepare` makes."""
    run(*prepare())
    times = []
    while len(times) < 3 or sum(times) < seconds:
        arguments = prepare()
        start = time.perf_counter()
        run(*arguments)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def rate(times, tokens, dropped):
    """Tokens a second by the median of the steps after the first `dropped`."""
    return tokens / statistics.median(times[dropped:])
