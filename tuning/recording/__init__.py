"""Recording a data set: a seeded design, measured in slices of time, written as measured tables."""
