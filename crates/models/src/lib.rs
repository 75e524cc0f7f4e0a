//! Checkpoints to decoder: configurations, weight readers, tokenizer, adapters, generation.
