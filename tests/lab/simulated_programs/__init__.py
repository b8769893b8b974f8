"""Tests of one platform whose pods are simulated, each going on with what is there."""
