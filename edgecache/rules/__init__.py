"""The cache's decisions as pure functions: no await, no clock, no socket, no logging; `now` is an argument."""
