"""Watches FineTuneJobs, makes their child Jobs and tells the truth in status."""
