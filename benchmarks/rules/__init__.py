"""Rules among themselves: their time, their paths on a toy problem, their agreement with the peer's."""
