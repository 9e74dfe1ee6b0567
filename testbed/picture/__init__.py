"""What a backdoor looks like inside: pictures of one attacked model, each with the numbers that it shows."""
