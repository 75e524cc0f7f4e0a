//! Rows, chat templates, loss masks, batches.
