"""What runs for the project, its schedules, its alerts, and what `evergreen doctor` finds."""
