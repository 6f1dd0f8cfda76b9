"""Wire protocols: ways of laying jobs out in a store. `base` is the seam, one package per protocol."""
