"""How close to real, how diverse, the right letter: the judge and the scorecard."""
