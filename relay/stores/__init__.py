"""The stores: one implementation for each protocol, with the same methods in the same order.

Decided here: what a store's answers mean. Never here: retries of a transfer, and levels of proof.
"""
