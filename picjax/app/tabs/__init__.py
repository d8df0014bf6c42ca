"""The tabs of the page: each has the functions that its events call, and its layout."""
