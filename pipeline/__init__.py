"""What happens to any job, whatever the platform: settings, decisions, planning, messages and the command line."""
