//! Every ceiling of the server, with where its number comes from.
