"""The glue suite: eight classification tasks, each model fine-tuned on each of them."""
