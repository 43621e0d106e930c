"""What is done to whole batches of events and jets, as tensors, to make views of them: physics kept, or broken on purpose."""
