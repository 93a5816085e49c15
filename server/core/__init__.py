"""What everything stands on: errors, configuration, names, cursors, principals, clocks, tasks."""
