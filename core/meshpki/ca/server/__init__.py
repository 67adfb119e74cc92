"""The CA as a server: listeners, the methods they serve and what watches over them."""
