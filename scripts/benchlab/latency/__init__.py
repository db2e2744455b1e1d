"""Groups of measurements of how long requests take: faults alone and beside others, dirtying, paging, standstill."""
