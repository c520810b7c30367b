"""Tables: files to cells, cells to typed columns, columns to the inputs of a network."""
