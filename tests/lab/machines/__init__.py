"""Tests of one platform of machines, without services, each going on with what is there."""
