"""The tests mirror the house: unit, contract, faults, properties, end_to_end."""
