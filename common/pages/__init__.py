"""Pages of HTML that need no other site: escaped text, one style, pictures within."""
