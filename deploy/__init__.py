"""What runs the service elsewhere, and the commands that check it without a container engine or a cluster."""
