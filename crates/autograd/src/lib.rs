//! LoRA autograd core: tensors, tape, operations with their backward, optimisers.
