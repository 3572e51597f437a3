"""Files of every format that is read, changed where their structure is, and what the library makes of them."""
