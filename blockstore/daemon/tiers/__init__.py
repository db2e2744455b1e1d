"""Between the pool and a tier or another host's snapshot: paging out, fetching, arrivals."""
