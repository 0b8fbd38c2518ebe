"""Parts that tests of several folders share: data, tars, processes, the command line."""
