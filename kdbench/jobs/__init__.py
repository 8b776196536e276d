"""What a worker does: it makes a teacher ready, or trains cohorts and leaves a record of each trial."""
