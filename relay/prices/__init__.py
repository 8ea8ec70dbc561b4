"""What requests and bytes cost at a store, by a dated price file: values only, and no socket."""
