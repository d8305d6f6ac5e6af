//! A month of trade through the REST API, and the check that every closing quantity is right.
