"""Tests of one platform whose machines run the real programs, each going on with what is there.

Building such a platform takes minutes: certificates wait for DNS, and Argo CD for its Redis.
"""
