"""The tests of autoprofile."""
