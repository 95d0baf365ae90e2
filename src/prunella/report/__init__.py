"""Reports: one look for every result, as an HTML file and in the terminal."""
