"""Computing in f32 on a 4-bit checkpoint."""
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM


def load(quantized):
    """The model in training mode, for evaluation lets bitsandbytes repack weights for a bf16 kernel; and what
    transformers says of its keys. A 4-bit checkpoint keeps its 16-bit parameters whatever dtype is asked for, and
    bitsandbytes rounds restored weights to the type they were quantized from: both are widened here."""
    model, report = AutoModelForCausalLM.from_pretrained(
        quantized, attn_implementation="eager", output_loading_info=True
    )
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
            module.weight.quant_state.dtype = torch.float32
    return model.train(), report
