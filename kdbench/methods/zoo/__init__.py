"""The methods: one file and its card each, nothing else."""
