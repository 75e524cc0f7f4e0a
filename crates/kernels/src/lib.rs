//! Every numeric operation of the trainer, once per backend.
