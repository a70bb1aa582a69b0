"""The worker process, which takes jobs from the queue, and its child, which runs them."""
