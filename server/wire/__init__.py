"""What goes over the wire: commands, pushes, messages, their encodings and frames."""
