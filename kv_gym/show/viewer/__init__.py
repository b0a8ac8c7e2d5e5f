"""A page that shows recorded episodes; see `page.build_page`."""
