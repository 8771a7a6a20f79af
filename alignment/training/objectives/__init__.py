"""What the trainer trains on: one file per objective, which says how rows become batches and what a batch's loss is."""
