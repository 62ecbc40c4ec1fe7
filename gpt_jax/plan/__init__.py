"""What a run would need, before there are devices to run it on."""
