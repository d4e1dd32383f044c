"""New entries against those that they would replace: measured again in turns, the better kept."""
